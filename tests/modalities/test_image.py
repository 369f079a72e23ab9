from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medmm.columns import ImageSpec
from medmm.dicom.certificate import Certificate
from medmm.dicom.header import PROJECTIONS
from medmm.dicom.volume import Volume
from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.image import Image, ImageSettings
from medmm.modality import present, stacked
from medmm.sample import Absence, SeriesSource

INTENSITY = ImageSpec(dir="dicom")
LABELS = ImageSpec(dir="dicom", kind="label_map", labels=(100, 200))


def volume(
    array: np.ndarray,
    spacing_mm: tuple[float, ...] | None = None,
    *,
    valid: np.ndarray | None = None,
    photometric: str = "MONOCHROME2",
    modality: str = "CT",
    rescale: tuple[float, float] = (1.0, 0.0),
    table: str = "none",
) -> Volume:
    spatial = array.shape[:-1] if photometric == "RGB" else array.shape
    mask = np.ones(spatial, bool) if valid is None else valid
    summary = Certificate("1.2", "1.2.3", "used", modality=modality, rescale=table)
    return Volume(array, spacing_mm, None, mask, photometric, 8, rescale, summary)


def image(declaration: ImageSpec = INTENSITY, **settings: object) -> Image:
    return Image("scan", ImageSettings.model_validate(settings), declaration)


def test_a_window_maps_its_ends_to_zero_and_one() -> None:
    array = np.linspace(-1500, 1500, 8**3).reshape(8, 8, 8).astype(np.float32)
    out = image(shape=(8, 8, 8), window=(-1000, 1000)).transform(volume(array))
    assert out.shape == (1, 8, 8, 8)
    assert out.dtype == np.float32
    assert out[0] == pytest.approx(np.clip((array + 1000) / 2000, 0, 1), abs=5e-4)


@given(st.floats(0.5, 1000), st.floats(-1000, 1000))
def test_without_a_window_scale_and_offset_do_not_matter(slope: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(16, 16)).astype(np.float32)
    block = image(shape=(16, 16))
    out = block.transform(volume(array))
    assert out == pytest.approx(block.transform(volume(array * slope + offset)), abs=0.02)
    assert np.median(out) == pytest.approx(0, abs=0.02)
    assert np.std(out) == pytest.approx(1, abs=0.1)
    assert np.abs(out).max() <= 5


def test_a_constant_image_is_zero() -> None:
    assert not image(shape=(8, 8)).transform(volume(np.full((8, 8), 7))).any()


def test_padding_is_filled_with_the_background_before_anything_is_measured() -> None:
    array = np.full((12, 12, 12), 40, np.int32)
    array[4:8] = 80
    valid = np.ones(array.shape, bool)
    valid[:, :, 0] = valid[:, :, -1] = False
    marked = np.where(valid, array, -3024)
    block = image(shape=(12, 12, 12))
    out = block.transform(volume(marked, valid=valid))
    assert np.array_equal(out, block.transform(volume(np.where(valid, array, 40))))
    assert np.array_equal(block.transform(volume(marked, valid=valid))[0, :, :, 0], out[0, :, :, 0])
    with pytest.raises(DicomRefusal, match="every pixel is padding"):
        block.transform(volume(array, valid=np.zeros(array.shape, bool)))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.0, -10.0)])
def test_rule_20_projection_xray_is_inverted_before_the_rescale(slope: float, intercept: float) -> None:
    stored = np.arange(256, dtype=np.int32).reshape(16, 16)
    lut = stored * slope + intercept
    expected = (255 - stored) * slope + intercept
    low, high = expected.min(), expected.max()
    block = image(shape=(16, 16), window=(low, high))
    xray = volume(lut, photometric="MONOCHROME1", modality="DX", rescale=(slope, intercept))
    assert block.transform(xray)[0] == pytest.approx((expected - low) / (high - low), abs=5e-4)
    signed = volume(
        (stored - 128) * slope + intercept,
        photometric="MONOCHROME1",
        modality="CR",
        rescale=(slope, intercept),
    )
    other = image(shape=(16, 16), window=(low - 128 * slope, high - 128 * slope))
    assert other.transform(signed)[0] == pytest.approx((expected - low) / (high - low), abs=5e-4)


@pytest.mark.parametrize("modality", sorted(PROJECTIONS))
def test_rule_20_what_is_loaded_as_a_projection_is_inverted(modality: str) -> None:
    array = np.arange(256, dtype=np.int32).reshape(16, 16)
    block = image(shape=(16, 16), window=(0, 255))
    film = block.transform(volume(array, photometric="MONOCHROME1", modality=modality))
    assert np.array_equal(film, block.transform(volume(255 - array)))


def test_rule_20_measurements_are_never_inverted() -> None:
    array = np.arange(256, dtype=np.int32).reshape(16, 16)
    block = image(shape=(16, 16), window=(0, 255))
    ct = block.transform(volume(array, photometric="MONOCHROME1", modality="CT"))
    assert np.array_equal(ct, block.transform(volume(array)))
    table = volume(array, photometric="MONOCHROME1", modality="DX", table="lookup table")
    with pytest.raises(DicomRefusal, match="unsupported_photometric"):
        block.transform(table)


def test_rgb_becomes_luminance() -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    array[..., 1] = 100
    out = image(shape=(8, 8), window=(0, 100)).transform(volume(array, photometric="RGB"))
    assert out == pytest.approx(0.587, abs=5e-4)


def test_spacing_is_resampled_about_the_centre() -> None:
    array = np.zeros((20, 20, 10), np.float32)
    array[8:12, 8:12, 4:6] = 1
    block = image(shape=(8, 8, 8), spacing_mm=(2, 2, 2), window=(0, 1))
    out = block.transform(volume(array, (1.0, 1.0, 2.0)))[0]
    # A bright cuboid of 4 × 4 × 4 mm in the middle: 2 × 2 × 2 voxels of 2 mm and their soft edge.
    assert out[3:5, 3:5, 3:5] == pytest.approx(0.875**2, abs=5e-4)
    assert out[[0, 1, -2, -1]].max() == 0
    assert out == pytest.approx(out[::-1, ::-1, ::-1], abs=1e-6)


def test_a_wider_field_is_padded_with_the_background() -> None:
    array = np.full((4, 4, 4), 60.0, np.float32)
    array[0, 0, 0] = -1000
    out = image(shape=(8, 8, 8), window=(-1000, 60)).transform(volume(array))[0]
    assert out[2:6, 2:6, 2:6].mean() > 0.98
    assert out[:2].max() == out[:, :, 6:].max() == 0


def test_a_label_map_is_one_channel_per_label_about_the_labels() -> None:
    array = np.zeros((30, 30, 12), np.int32)
    array[20:24, 3:7, 2:4] = 100
    array[24:28, 3:7, 2:4] = 200
    array[0, 0, 11] = 7
    out = image(LABELS, shape=(8, 8, 8)).transform(volume(array, (1.0, 1.0, 3.0)))
    assert out.shape == (2, 8, 8, 8)
    assert set(np.unique(out)) == {0.0, 1.0}
    assert out.sum(axis=(1, 2, 3)).tolist() == [4 * 4 * 2] * 2
    assert out[0, :4].sum() == out[1, 4:].sum() == 4 * 4 * 2


def test_a_label_map_keeps_its_volume_when_it_is_resampled() -> None:
    rng = np.random.default_rng(0)
    array = np.zeros((40, 40, 20), np.int32)
    array[10:30, 12:28, 4:16] = rng.choice([0, 100, 200], size=(20, 16, 12))
    out = image(LABELS, shape=(16, 16, 16), spacing_mm=(2.5, 2.5, 3.7)).transform(
        volume(array, (1.0, 1.0, 3.0))
    )
    expected = [(array == label).sum() * 3.0 / (2.5 * 2.5 * 3.7) for label in (100, 200)]
    assert out.sum(axis=(1, 2, 3)) == pytest.approx(expected, rel=1e-4)
    assert out.sum(axis=0).max() <= 1 + 1e-5


def test_labels_beyond_the_field_of_view_are_told_of() -> None:
    array = np.zeros((20, 20, 20), np.int32)
    array[5:14, 8:12, 8:12] = 100
    declaration = LABELS.model_copy(update={"label": "Zones"})
    assert image(declaration, shape=(8, 8, 8)).warnings(volume(array)) == (
        "Zones: the labels reach beyond the field of view",
    )
    assert image(declaration, shape=(9, 8, 8)).warnings(volume(array)) == ()
    assert image(declaration, shape=(8, 8, 8), spacing_mm=(2, 2, 2)).warnings(volume(array, (1, 1, 1))) == ()
    assert image(shape=(8, 8, 8)).warnings(volume(array)) == ()


def test_a_label_map_without_labels_is_empty() -> None:
    assert not image(LABELS, shape=(8, 8, 8)).transform(volume(np.zeros((9, 9, 9), np.int32))).any()


@pytest.mark.parametrize("size", [(50, 20), (20, 50), (7, 7)])
def test_fit_shows_the_whole_image_and_fill_leaves_no_border(size: tuple[int, int]) -> None:
    array = np.full(size, 9.0, np.float32)
    array[0, 0] = 0
    fit = image(shape=(16, 16), spacing_mm="fit", window=(0, 9)).transform(volume(array))[0]
    fill = image(shape=(16, 16), spacing_mm="fill", window=(0, 9)).transform(volume(array))[0]
    covered = (fit > 0.5).sum(), (fill > 0.5).sum()
    assert covered[0] == pytest.approx(256 * min(size) / max(size), abs=34)
    assert covered[1] >= 256 - 4  # all but the dark pixel, enlarged


def test_geometry_that_the_recipe_cannot_use_is_refused() -> None:
    flat, deep = volume(np.zeros((9, 9))), volume(np.zeros((9, 9, 9)))
    with pytest.raises(DicomRefusal, match=r"inconsistent_geometry.*takes 3-D images, this series is 2-D"):
        image(shape=(8, 8, 8)).transform(flat)
    with pytest.raises(DicomRefusal, match=r"inconsistent_geometry.*takes 2-D images, this series is 3-D"):
        image(shape=(8, 8)).transform(deep)
    with pytest.raises(DicomRefusal, match=r"invalid_spacing.*`spacing_mm: fit`"):
        image(shape=(8, 8), spacing_mm=(1, 1)).transform(flat)
    with pytest.raises(DicomRefusal, match="reads a series"):
        image(shape=(8, 8)).load(Absence("no_series"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shape": (8, 8, 8), "spacing_mm": (1, 1)},
        {"shape": (8, 8, 8), "window": (3, 3)},
        {"shape": (8, 8), "augment": {"flip": ["x"]}},
        {"shape": (8, 8), "windows": (0, 1)},
        {"shape": (8,)},
    ],
)
def test_settings_that_cannot_mean_anything_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ImageSettings.model_validate(settings)


def test_settings_that_do_not_suit_the_cohort_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shrinks each axis 8 times, which shape \(8, 8, 7\)"):
        image(shape=(8, 8, 7))
    with pytest.raises(ConfigError, match="32 times"):
        image(shape=(16, 16), encoder={"kind": "resnet10"})
    with pytest.raises(ConfigError, match="no `window`"):
        image(LABELS, shape=(8, 8, 8), window=(0, 1))
    with pytest.raises(ConfigError, match="declares no image"):
        Image("scan", ImageSettings(shape=(8, 8)), {})


def test_nothing_is_fitted_and_an_image_is_one_input_for_all_members() -> None:
    block = image(shape=(8, 8))
    assert block.fit([]) is block.restore({}) is block
    assert block.state() == {}
    other = image(shape=(8, 8))
    assert stacked([block, other]) is block
    assert block.players() == ()
    assert present((), block.transform(volume(np.eye(8))))


def test_the_encoder_takes_what_transform_gives_and_augmentation_keeps_its_shape() -> None:
    block = image(LABELS, shape=(8, 8, 8), augment={"flip": ["x", "z"], "shift_voxels": 1})
    batch = torch.rand(3, *block.shape)
    varied = block.augment(batch, torch.Generator().manual_seed(0))
    assert varied.shape == batch.shape
    assert not torch.equal(varied, batch)
    assert torch.equal(varied, block.augment(batch, torch.Generator().manual_seed(0)))
    encoder = block.encoder()
    assert encoder(varied).shape == (3, encoder.out_features)


def test_a_written_series_is_loaded_and_seen(tmp_path: Path) -> None:
    series, study = generate_uid(), generate_uid()
    files = []
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 2000, size=(6, 10, 12)).astype(np.uint16)
    for z in rng.permutation(6).tolist():
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        ds = Dataset()
        ds.file_meta = meta
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1", study, series, "CT"
        ds.Rows, ds.Columns, ds.PixelSpacing, ds.SliceThickness = 10, 12, [2, 2], 3
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3 * z], [1, 0, 0, 0, 1, 0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = stored[z].tobytes()
        path = tmp_path / f"{rng.integers(1 << 30)}.dcm"
        ds.save_as(path, enforce_file_format=True)
        files.append(path)
    block = image(shape=(12, 10, 8), window=(-1024, 976), encoder={"channels": (4, 8)})
    out = block.transform(block.load(SeriesSource(tuple(files))))
    # Stored [slice, row, column] is [z, P, L]; the network sees [R, A, S].
    expected = stored.transpose(2, 1, 0)[::-1, ::-1] / 2000
    assert out[0, :, :, 1:7] == pytest.approx(expected, abs=5e-4)
    assert out[0, :, :, [0, 7]].max() == out.min()
