"""Every key by which a cohort chooses a series, as `medmm cohort check` shows it on real DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from medmm.cli import app
from medmm.cohort.site import pseudonym, site_key
from medmm.errors import ConfigError, OutputError
from medmm.sample import Absence
from medmm.sources.duck import read_parquet
from tests.cohort.conftest import Small
from tests.cohort.test_images import write_series
from tests.dicom.test_masks import item

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
SERIES: dict[str, dict[str, Any]] = {
    "chest": {"StudyDate": "20240110", "SeriesDescription": "Lung 1.0 B70f", "SliceThickness": 1},
    "abdomen": {"StudyDate": "20240115", "BodyPartExamined": "ABDOMEN", "slices": 4},
    "mr": {"StudyDate": "20240120", "Modality": "MR", "BodyPartExamined": "HEAD"},
    "coronal": {"StudyDate": "20240125", "ImageOrientationPatient": CORONAL, "SliceThickness": 3},
    "sagittal": {"StudyDate": "20240205", "ImageOrientationPatient": SAGITTAL},
    "newest": {"StudyDate": "20240228", "SeriesDescription": "Thick"},
    "afterwards": {"StudyDate": "20240302", "slices": 6},
    "scout": {"StudyDate": "20240229", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
}
IN_TIME = len(SERIES) - 2
"""All but the localizer and the one from after the prediction time."""


@pytest.fixture
def uids(small: Small) -> dict[str, str]:
    """Patient 001 with one series of each kind; the prediction time is 2024-03-01."""
    small.spec["prediction_time"]["resolution"] = "day"
    return {
        name: write_series(small.root / "dicom", "001", uid=f"1.2.{place + 3}", **tags)
        for place, (name, tags) in enumerate(SERIES.items())
    }


def shown(small: Small, image: dict[str, Any], tmp_path: Path) -> tuple[str, dict[str, list[Any]]]:
    """What `medmm cohort check --series` prints, and the candidates it writes."""
    small.spec["images"] = {"scan": {"dir": "dicom", **image}}
    (small.root / "cohort.yaml").write_text(yaml.safe_dump(small.spec))
    place = tmp_path / "series.parquet"
    ran = CliRunner().invoke(
        app,
        ["cohort", "check", str(small.root), "--root", str(small.root), "--series", str(place)],
        catch_exceptions=False,
    )
    assert ran.exit_code == 0, ran.output
    return ran.output, read_parquet(place)


def taken(columns: dict[str, list[Any]], uids: dict[str, str]) -> list[str]:
    names = {pseudonym(site_key(), uid): name for name, uid in uids.items()}
    return [names[s] for s, chosen in zip(columns["series"], columns["chosen"], strict=True) if chosen]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "newest"),
        ({"choose": "nearest"}, "newest"),
        ({"choose": "last"}, "newest"),
        ({"choose": "first"}, "chest"),
        ({"choose": "largest"}, "abdomen"),
        ({"modality": "MR"}, "mr"),
        ({"body_part": "abdomen"}, "abdomen"),
        ({"description": r"^lung\s"}, "chest"),
        ({"description": "thick|lung", "choose": "last"}, "newest"),
        ({"thickness_mm": [0.5, 2]}, "chest"),
        ({"thickness_mm": [2, 4]}, "coronal"),
        ({"orientation": "coronal"}, "coronal"),
        ({"orientation": "sagittal"}, "sagittal"),
        ({"orientation": "axial", "modality": "CT", "choose": "first"}, "chest"),
        ({"modality": "CT", "body_part": "chest", "thickness_mm": [4, 6], "choose": "first"}, "sagittal"),
    ],
    ids=repr,
)
def test_each_key_chooses_and_every_other_series_has_its_reason(
    small: Small, uids: dict[str, str], tmp_path: Path, image: dict[str, Any], expected: str
) -> None:
    text, columns = shown(small, image, tmp_path)
    assert taken(columns, uids) == [expected]
    assert len(columns["series"]) == len(SERIES)
    fates = list(zip(columns["chosen"], columns["reason"], strict=True))
    assert all(bool(reason) != chosen for chosen, reason in fates)
    line = next(line for line in text.splitlines() if line.startswith("scan: "))
    assert line.startswith(f"scan: {len(SERIES)} candidates = 1 chosen")
    assert "not_eligible: localizer" in line
    assert all(reason in line for _, reason in fates)
    assert not any(uid in text + repr(columns) for uid in uids.values())


def test_all_takes_every_eligible_series_in_time(small: Small, uids: dict[str, str], tmp_path: Path) -> None:
    _, columns = shown(small, {"choose": "all"}, tmp_path)
    assert set(taken(columns, uids)) == set(SERIES) - {"afterwards", "scout"}
    source = small.link().patients[0].sources["scan"]
    assert len({file.name[:6] for file in source.files}) == IN_TIME
    assert source.offset_days == -2.0
    assert small.link().flow.files.parts["used"] == len(source.files)


def test_a_description_that_is_no_pattern_is_named(small: Small, uids: dict[str, str]) -> None:
    small.spec["images"] = {"scan": {"dir": "dicom", "description": "("}}
    with pytest.raises(ConfigError, match="no regular expression"):
        small.link()


def test_the_prediction_time_itself_may_be_the_chosen_series(
    small: Small, uids: dict[str, str], tmp_path: Path
) -> None:
    small.spec["prediction_time"] = {"from_image": "scan"}
    small.spec["never_columns"] = {"records.csv": {"seen_at": "not the clock here"}}
    _, columns = shown(small, {"choose": "first"}, tmp_path)
    assert taken(columns, uids) == ["chest"]
    _, columns = shown(small, {"choose": "last"}, tmp_path)
    assert taken(columns, uids) == ["afterwards"]


def write_mask(folder: Path, series: str, name: str, **elements: Any) -> str:
    """A SEG that names a series; only its header is read by a cohort."""
    uid = f"1.2.99.{len(list(folder.iterdir()))}"

    def change(dataset: Dataset) -> None:
        dataset.ReferencedSeriesSequence = [item(SeriesInstanceUID=series)]
        labels = elements.pop("labels", ("Liver",))
        dataset.SegmentSequence = [item(SegmentNumber=i + 1, SegmentLabel=s) for i, s in enumerate(labels)]
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        dataset.SOPInstanceUID = uid
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)

    import pydicom

    write_series(folder / "made", "001", slices=1, uid=f"{uid}.1")
    (path,) = (folder / "made").iterdir()
    dataset = pydicom.dcmread(path)
    path.unlink()
    change(dataset)
    dataset.save_as(folder / name)
    return uid


def test_a_mask_counts_by_when_it_was_drawn(small: Small, uids: dict[str, str], tmp_path: Path) -> None:
    folder = small.root / "dicom"
    newest = uids["newest"]
    write_mask(folder, newest, "early.dcm", ContentDate="20240228", ContentTime="101500")
    good = write_mask(folder, newest, "good.dcm", ContentDate="20240229")
    late = write_mask(folder, newest, "late.dcm", ContentDate="20240401")
    write_mask(folder, newest, "spleen.dcm", ContentDate="20240229", labels=("Spleen",))
    write_mask(folder, newest, "undated.dcm", labels=("liver", "Spleen"))
    write_mask(folder, uids["chest"], "other.dcm", ContentDate="20240229")
    text, columns = shown(small, {"mask": {"kind": "SEG", "structures": ["LIVER"]}}, tmp_path)
    rows = zip(columns["block"], columns["series"], columns["reason"], strict=True)
    fates = {series: reason for block, series, reason in rows if block == "scan.mask"}
    reasons = ["", "another was chosen", "later", "not_eligible: structures", "undated"]
    assert sorted(fates.values()) == reasons
    assert fates[pseudonym(site_key(), good)] == ""
    assert "scan.mask: 5 candidates = 1 chosen" in text
    source = small.link().patients[0].sources["scan"]
    assert [path.name for path in source.masks] == ["good.dcm"]
    assert small.link().flow.files.parts["used"] == len(source.files) + 1
    before = small.link().digest
    small.spec["images"]["scan"]["mask"]["late"] = {"assume_known": "drawn on the image alone"}
    source = small.link().patients[0].sources["scan"]
    assert [path.name for path in source.masks] == ["late.dcm"]
    assert pseudonym(site_key(), late) in fates
    assert small.link().digest != before
    small.spec["images"]["scan"]["mask"] = {"kind": "RTSTRUCT"}
    assert small.link().patients[0].sources["scan"].masks == ()


def test_the_digest_follows_the_mask_though_its_file_is_as_long(small: Small, uids: dict[str, str]) -> None:
    folder = small.root / "dicom"
    small.spec["images"] = {"scan": {"dir": "dicom", "mask": {"kind": "SEG"}}}
    write_mask(folder, uids["newest"], "mask.dcm", ContentDate="20240229")
    first, size = small.link().digest, (folder / "mask.dcm").stat().st_size
    write_mask(folder, uids["newest"], "mask.dcm", ContentDate="20240229", SOPInstanceUID="1.2.99.99")
    assert (folder / "mask.dcm").stat().st_size == size
    assert small.link().digest != first


def test_a_label_map_block_can_be_the_mask_of_another(small: Small, uids: dict[str, str]) -> None:
    maps = {"dir": "dicom", "description": "thick", "kind": "label_map", "labels": [1]}
    small.spec["images"] = {
        "scan": {"dir": "dicom", "modality": "CT", "mask": {"block": "zones", "labels": [1]}},
        "zones": maps,
    }
    sources = small.link().patients[0].sources
    assert set(sources["scan"].masks) == set(sources["zones"].files)
    assert small.link().patients[1].sources["scan"] == Absence("no_series")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"mask": {"block": "scan"}}, "no label_map block"),
        ({"mask": {"block": "zones", "structures": ["Liver"]}}, "has its own"),
        ({"mask": {"labels": [1]}}, "name its `block`"),
        ({"mask": {}, "choose": "all"}, "one series of intensities"),
        ({"mask": {"kind": "NIFTI"}}, "SEG"),
        ({"choose": "newest"}, "nearest"),
        ({"thickness_mm": [5, 1]}, "lower first"),
    ],
    ids=repr,
)
def test_a_key_that_cannot_mean_what_it_says_is_refused(
    small: Small, image: dict[str, Any], words: str
) -> None:
    small.spec["images"] = {
        "scan": {"dir": "dicom", **image},
        "zones": {"dir": "dicom", "kind": "label_map", "labels": [1]},
    }
    load: Callable[[], Any] = small.load
    with pytest.raises(ConfigError, match=words):
        load()


def test_the_list_of_candidates_goes_to_parquet_only_and_may_be_empty(small: Small, tmp_path: Path) -> None:
    text, columns = shown_without_images(small, tmp_path / "series.parquet")
    assert "0 candidates" in text
    assert set(columns) >= {"block", "series", "chosen", "reason"}
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        shown_without_images(small, tmp_path / "series.csv")


def shown_without_images(small: Small, place: Path) -> tuple[str, dict[str, list[Any]]]:
    (small.root / "cohort.yaml").write_text(yaml.safe_dump(small.spec))
    command = ["cohort", "check", str(small.root), "--root", str(small.root), "--series", str(place)]
    ran = CliRunner().invoke(app, command, catch_exceptions=False)
    return ran.output, read_parquet(place)
