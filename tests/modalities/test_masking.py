"""Masks as a crop or a channel, irregular series by the recipe's word: from DICOM to the network's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from pydicom.uid import generate_uid

from medmm.cohort.link import link
from medmm.cohort.spec import load_spec
from medmm.columns import ImageSpec
from medmm.dicom import load, load_files
from medmm.errors import ConfigError, DicomRefusal
from medmm.modalities.image import Image, ImageSettings
from medmm.sample import SeriesSource
from tests.dicom.conftest import Scanner
from tests.dicom.test_masks import frame, segmentation, structure_set

SIZE = 16
PLACES = tuple(float(z) for z in range(SIZE))
LESION = (slice(4, 8), slice(6, 12), slice(2, 10))
"""Stored slice, row, column."""


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    """A cube of 16 voxels of 1 mm; intensities tell the place."""
    made = Scanner(tmp_path / "dicom")
    for z in PLACES:
        made.slice(z, f"{z:04.0f}.dcm", pixels=plane(z), PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, z])
    return made


def plane(z: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (100 * z + 10 * rows + columns).astype(np.int16)


def drawn(scanner: Scanner, **elements: Any) -> Path:
    """A SEG of the lesion."""
    whole = np.zeros((SIZE, SIZE, SIZE), bool)
    whole[LESION] = True
    frames = [frame(z, 1, corner=(0, 0)) for z in PLACES[LESION[0]]]
    return segmentation(scanner, whole[LESION[0]], frames, spacing=[1, 1], names=["Lesion"], **elements)


def image(mask: dict[str, Any] | None, *, spec: dict[str, Any] | None = None, **settings: Any) -> Image:
    declared = ImageSpec(dir="dicom", mask=spec if spec is not None else {"kind": "SEG"})
    block = ImageSettings.model_validate(
        {"shape": (16, 16, 16), "encoder": {"channels": [4, 8]}, **settings}
        | ({"mask": mask} if mask else {})
    )
    return Image("scan", block, declared)


def source(scanner: Scanner, *masks: Path) -> SeriesSource:
    return SeriesSource(tuple(sorted(scanner.folder.iterdir())), masks=masks)


def test_a_channel_shows_the_mask_where_the_image_is(scanner: Scanner) -> None:
    block = image({"use": "channel"}, window=(-1024, 1000))
    loaded = block.load(source(scanner, drawn(scanner)))
    out = block.transform(loaded)
    assert out.shape == block.shape == (2, 16, 16, 16)
    expected = np.zeros((SIZE, SIZE, SIZE), np.float32)
    expected[LESION] = 1
    assert np.array_equal(out[1], np.swapaxes(expected, 0, 2)[::-1, ::-1])
    plain = image(None, window=(-1024, 1000)).transform(load_files(sorted(scanner.folder.iterdir())))
    assert np.array_equal(out[:1], plain)
    assert block.encoder()(torch.from_numpy(out[None])).shape == (1, 8)


@pytest.mark.parametrize("margin_mm", [0.0, 1.0, 40.0])
def test_a_crop_is_the_box_of_the_mask_where_it_lies_in_the_patient(
    scanner: Scanner, margin_mm: float
) -> None:
    block = image({"use": "crop", "margin_mm": margin_mm}, spacing_mm="fit", window=(-1024, 1000))
    loaded = block.load(source(scanner, drawn(scanner)))
    whole = load(scanner.folder)
    size = [min(n + 2 * margin_mm, SIZE) for n in (8, 6, 4)]
    if margin_mm < 2:
        assert loaded.array.shape == tuple(size)
    corner = np.rint(np.linalg.solve(whole.affine, loaded.affine @ [0, 0, 0, 1]))[:3].astype(int)
    box = tuple(slice(start, start + n) for start, n in zip(corner, loaded.array.shape, strict=True))
    assert np.array_equal(whole.array[box], loaded.array)
    assert block.transform(loaded).shape == (1, 16, 16, 16)
    assert loaded.certificate.shape == loaded.array.shape
    assert "cropped to its mask" in loaded.certificate.notes
    assert (loaded.array.shape == whole.array.shape) == (margin_mm == 40)


def test_contours_are_a_mask_too(scanner: Scanner) -> None:
    square = ("CLOSED_PLANAR", [2, 6, 5, 9, 6, 5, 9, 11, 5, 2, 11, 5])
    path = structure_set(scanner, {"Lesion": [square]})
    block = image({"use": "crop"}, spec={"kind": "RTSTRUCT", "structures": ["lesion"]})
    assert block.load(source(scanner, path)).array.shape[2] == 1


def test_a_label_map_on_the_same_grid_is_a_mask(scanner: Scanner, tmp_path: Path) -> None:
    other = Scanner(tmp_path / "map")
    other.study, other.frame = scanner.study, scanner.frame
    labels = np.zeros((SIZE, SIZE, SIZE), np.int16)
    labels[LESION] = 3
    labels[0, 0, 0] = 7
    for z in PLACES:
        other.slice(
            z, pixels=labels[int(z)], PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, z], RescaleIntercept=0
        )
    block = image({"use": "crop"}, spec={"block": "zones", "labels": [3]})
    files = tuple(other.folder.iterdir())
    assert block.load(source(scanner, *files)).array.shape == (8, 6, 4)
    every = image({"use": "crop"}, spec={"block": "zones"}).load(source(scanner, *files))
    assert every.array.shape == (10, 12, 8)
    with pytest.raises(DicomRefusal, match="the structures are empty"):
        image({"use": "crop"}, spec={"block": "zones", "labels": [5]}).load(source(scanner, *files))
    moved = Scanner(tmp_path / "moved")
    moved.study, moved.frame = scanner.study, scanner.frame
    for z in PLACES:
        moved.slice(z, pixels=labels[int(z)], PixelSpacing=[1, 1], ImagePositionPatient=[0.5, 0, z])
    with pytest.raises(DicomRefusal, match="another grid"):
        block.load(source(scanner, *moved.folder.iterdir()))


@pytest.mark.parametrize("frame_of_reference", ["another", None])
def test_a_label_map_of_another_visit_is_no_mask_though_the_grids_agree(
    scanner: Scanner, tmp_path: Path, frame_of_reference: str | None
) -> None:
    other = Scanner(tmp_path / "map")
    other.frame = frame_of_reference and other.frame
    for z in PLACES:
        pixels = np.ones((SIZE, SIZE), np.int16)
        other.slice(z, pixels=pixels, PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, z], RescaleIntercept=0)
    block = image({"use": "crop"}, spec={"block": "zones"})
    files = tuple(other.folder.iterdir())
    with pytest.raises(DicomRefusal, match="of another study or frame of reference") as caught:
        block.load(source(scanner, *files))
    assert caught.value.reason == "inconsistent_geometry"


def test_a_patient_without_a_mask_is_refused_by_name(scanner: Scanner) -> None:
    with pytest.raises(DicomRefusal) as caught:
        image({"use": "channel"}).load(source(scanner))
    assert caught.value.reason == "no_mask"
    elsewhere = drawn(scanner, series=generate_uid(), FrameOfReferenceUID=generate_uid())
    with pytest.raises(DicomRefusal, match="neither the series nor its frame"):
        image({"use": "crop"}).load(source(scanner, elsewhere))
    nothing = drawn(scanner)
    nothing.write_bytes(nothing.read_bytes()[:200])
    with pytest.raises(DicomRefusal):
        image({"use": "crop"}).load(source(scanner, nothing))


def test_what_makes_no_sense_is_refused_when_it_is_written() -> None:
    with pytest.raises(ConfigError, match="names none"):
        Image(
            "scan",
            ImageSettings(shape=(16, 16, 16), mask={"use": "crop"}),  # type: ignore[arg-type]
            ImageSpec(dir="dicom"),
        )
    with pytest.raises(ConfigError, match="cannot be interpolated"):
        Image(
            "zones",
            ImageSettings(shape=(16, 16, 16), resample=True),
            ImageSpec(dir="dicom", kind="label_map", labels=(1,)),
        )
    with pytest.raises(ValidationError, match="margin_mm"):
        image({"use": "channel", "margin_mm": 3})
    with pytest.raises(ValidationError):
        image({"use": "blur"})


def test_augmentation_moves_the_mask_with_the_image_and_adds_no_noise_to_it(scanner: Scanner) -> None:
    block = image(
        {"use": "channel"}, window=(-1024, 1000), augment={"flip": ["x"], "noise": 0.3, "shift_voxels": 2}
    )
    one = torch.from_numpy(block.transform(block.load(source(scanner, drawn(scanner))))[None])
    varied = block.augment(one, torch.Generator().manual_seed(3))
    assert set(varied[:, 1].unique().tolist()) == {0.0, 1.0}
    assert len(varied[:, 0].unique()) > 3000


def test_an_irregular_series_is_interpolated_by_the_recipes_word_alone(tmp_path: Path) -> None:
    scanner = Scanner(tmp_path / "gap")
    for z in (*PLACES[:7], *PLACES[8:]):
        scanner.slice(z, pixels=plane(z), PixelSpacing=[1, 1], ImagePositionPatient=[0, 0, z])
    with pytest.raises(DicomRefusal) as caught:
        image(None).load(source(scanner))
    assert caught.value.reason == "missing_slices"
    loaded = image(None, resample=True).load(source(scanner))
    assert loaded.array.shape == (16, 16, 16)
    assert loaded.array[0, 0, 7] == pytest.approx(plane(7)[-1, -1] - 1024)
    assert any("resampled linearly" in note for note in loaded.certificate.notes)


@pytest.mark.parametrize("use", ["crop", "channel"])
def test_a_mask_of_one_voxel_and_one_that_fills_the_image(scanner: Scanner, use: str) -> None:
    for box in ((slice(7, 8),) * 3, (slice(0, SIZE),) * 3):
        whole = np.zeros((SIZE, SIZE, SIZE), bool)
        whole[box] = True
        frames = [frame(z, 1, corner=(0, 0)) for z in PLACES[box[0]]]
        path = segmentation(scanner, whole[box[0]], frames, spacing=[1, 1], names=["Lesion"])
        block = image({"use": use}, spacing_mm="fit")
        out = block.transform(block.load(source(scanner, path)))
        assert out.shape == block.shape
        assert np.isfinite(out).all()


COHORT = """
name: drawn
subjects: {table: people.csv, id: id}
prediction_time: {table: people.csv, column: day, resolution: day}
outcomes: {ill: {table: people.csv, column: ill, positive: 1}}
images: {scan: {dir: dicom, modality: CT, mask: {kind: SEG, structures: [lesion]}}}
"""


@pytest.mark.parametrize(("use", "shape"), [("crop", (8, 6, 4)), ("channel", (16, 16, 16))])
def test_from_a_folder_and_two_yaml_blocks_to_the_networks_input(
    tmp_path: Path, use: str, shape: tuple[int, ...]
) -> None:
    made = Scanner(tmp_path / "dicom")
    dated = {"StudyDate": "20240201", "PixelSpacing": [1, 1]}
    for z in PLACES:
        made.slice(z, pixels=plane(z), ImagePositionPatient=[0, 0, z], **dated)
    for day in ("20240202", "20240401"):
        path = drawn(made, ContentDate=day)
        path.rename(made.folder / f"mask-{day}.dcm")
    (tmp_path / "people.csv").write_text("id,day,ill\nP1,2024-03-01,1\n")
    (tmp_path / "cohort.yaml").write_text(COHORT)
    cohort = link(load_spec(tmp_path), tmp_path, key=b"k" * 32)
    found = cohort.patients[0].sources["scan"]
    assert isinstance(found, SeriesSource)
    assert [mask.name for mask in found.masks] == ["mask-20240202.dcm"]
    settings = ImageSettings.model_validate(
        {"shape": shape, "encoder": {"channels": [4]}, "mask": {"use": use}, "window": (-1024, 1000)}
    )
    block = Image("scan", settings, cohort.spec.images["scan"])
    out = block.transform(block.load(found))
    assert out.shape == block.shape == (1 if use == "crop" else 2, *shape)
    stored = np.stack([plane(z) for z in PLACES])[LESION] - 1024
    seen = np.swapaxes(stored, 0, 2)[::-1, ::-1]
    inside = out[0] if use == "crop" else out[0][out[1] == 1].reshape(seen.shape)
    assert inside == pytest.approx((seen + 1024) / 2024, abs=1e-3)
