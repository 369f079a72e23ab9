"""The cache of prepared images: named by all that entered it, and done again where it is damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medmm.columns import ImageSpec
from medmm.fitting.inputs import prepare_images
from medmm.modalities.image import Image, ImageSettings
from medmm.sample import Absence, SeriesSource


def film(path: Path, brightness: int) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.Modality, dataset.PhotometricInterpretation = "P", "DX", "MONOCHROME2"
    dataset.PixelSpacing = [1, 1]
    pixels = (np.arange(256).reshape(16, 16) % 50 + brightness).astype(np.uint16)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 16, 12, 11
    dataset.PixelRepresentation, dataset.PixelData = 0, pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def sources(tmp_path: Path) -> list[SeriesSource | Absence]:
    files = [film(tmp_path / f"{i}.dcm", 100 * i) for i in range(3)]
    return [*(SeriesSource((file,), pseudonym=file.stem) for file in files), Absence("no_series")]


def modality(high: float = 400, labels: tuple[int, ...] = ()) -> Image:
    spec = ImageSpec(dir="x", kind="label_map", labels=labels) if labels else ImageSpec(dir="x")
    window = None if labels else (0, high)
    encoder = {"channels": [2]}
    return Image(
        "film", ImageSettings.model_validate({"shape": (8, 8), "window": window, "encoder": encoder}), spec
    )


def names(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_what_was_prepared_is_found_again_without_opening_a_file(tmp_path, sources):
    first = prepare_images(modality(), sources, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    stamp = sources[0].files[0].stat()
    sources[0].files[0].write_bytes(b"\0" * stamp.st_size)
    os.utime(sources[0].files[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = prepare_images(modality(), sources, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert np.array_equal(first.array, again.array)
    assert again.row_of.tolist() == [0, 1, 2, -1]
    assert again.absent == ("", "", "", "no_series")


def test_another_transform_has_another_name(tmp_path, sources, monkeypatch):
    cache = tmp_path / "cache"
    prepare_images(modality(), sources, cache)
    counted = [len(names(cache))]
    prepare_images(modality(high=300), sources, cache)
    counted.append(len(names(cache)))
    prepare_images(modality(labels=(100,)), sources, cache)
    counted.append(len(names(cache)))
    monkeypatch.setattr(Image, "transform_version", Image.transform_version + 1)
    prepare_images(modality(), sources, cache)
    counted.append(len(names(cache)))
    monkeypatch.setattr("medmm.fitting.inputs.LOADER_VERSION", 0)
    prepare_images(modality(), sources, cache)
    counted.append(len(names(cache)))
    assert counted == [2, 4, 6, 8, 10]


def test_a_reason_of_absence_is_the_one_of_this_run(tmp_path, sources):
    assert prepare_images(modality(), sources, tmp_path / "cache").absent[3] == "no_series"
    sources[3] = Absence("later")
    assert prepare_images(modality(), sources, tmp_path / "cache").absent[3] == "later"


def test_a_file_may_have_a_name_that_is_no_text(tmp_path, sources):
    odd = sources[0].files[0].rename(tmp_path / os.fsdecode(b"\xff.dcm"))
    found = prepare_images(modality(), [SeriesSource((odd,), pseudonym="0")], tmp_path / "cache")
    assert found.absent == ("",)


@pytest.mark.parametrize("change", ["content", "time", "one less", "order"])
def test_other_files_have_another_name_and_other_values(tmp_path, sources, change):
    cache = tmp_path / "cache"
    before = prepare_images(modality(), sources, cache)
    if change == "content":
        film(sources[1].files[0], 300)
    elif change == "time":
        os.utime(sources[1].files[0], ns=(1, 1))
    elif change == "one less":
        sources[1] = Absence("later")
    else:
        sources = sources[::-1]
    after = prepare_images(modality(), sources, cache)
    assert len(names(cache)) == 4
    if change == "content":
        assert after.array[1].mean() > before.array[1].mean() + 0.2
    elif change == "one less":
        assert after.row_of.tolist() == [0, -1, 1, -1]
    elif change == "order":
        assert after.row_of.tolist() == [-1, 0, 1, 2]
        assert np.array_equal(after.array[0], before.array[2])


@pytest.mark.parametrize(
    "damage", ["array cut", "array empty", "no array", "listing cut", "no listing", "rows beyond"]
)
def test_a_damaged_cache_is_done_again(tmp_path, sources, damage):
    cache = tmp_path / "cache"
    whole = np.array(prepare_images(modality(), sources, cache).array)
    array, listing = next(cache.glob("*.npy")), next(cache.glob("*.json"))
    if damage in ("no array", "no listing"):
        (array if damage == "no array" else listing).unlink()
    elif damage == "rows beyond":
        listing.write_text(json.dumps({**json.loads(listing.read_text()), "row_of": [0, 1, 9, -1]}))
    else:
        file = listing if damage == "listing cut" else array
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(b"" if damage == "array empty" else content[: len(content) - 20])
    again = prepare_images(modality(), sources, cache)
    assert np.array_equal(again.array, whole)
    assert again.row_of.tolist() == [0, 1, 2, -1]
    assert len(names(cache)) == 2


def test_a_series_that_is_refused_is_an_absence_with_its_reason(tmp_path, sources):
    sources[1].files[0].write_bytes(b"no DICOM at all")
    found = prepare_images(modality(), sources, tmp_path / "cache")
    assert found.row_of.tolist() == [0, -1, 1, -1]
    assert found.absent[1] == "not_dicom"
