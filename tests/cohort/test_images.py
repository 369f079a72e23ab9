"""Which series is taken, from real DICOM files, and what becomes of every file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medmm.cohort.link import Cohort, link
from medmm.cohort.moments import Moment, dicom_moment
from medmm.cohort.spec import load_spec
from medmm.errors import ConfigError, DataError
from medmm.sample import Absence, SeriesSource


def write_series(folder: Path, patient: str, *, slices: int = 2, uid: str | None = None, **tags: Any) -> str:
    """Write a tiny CT series; ``tags`` set or (None) delete attributes."""
    uid = uid or generate_uid()[:50].rstrip(".")
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(slices):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PatientID, dataset.StudyInstanceUID = patient, f"{uid}.1"
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uid, f"{uid}.{place + 2}"
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.Modality, dataset.BodyPartExamined = "CT", "CHEST"
        dataset.StudyDate, dataset.SliceThickness = "20240220", 5
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
        dataset.ImagePositionPatient = [0, 0, place * 5]
        dataset.Rows = dataset.Columns = 4
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = np.full((4, 4), place, np.uint16).tobytes()
        for tag, value in tags.items():
            if value is None:
                delattr(dataset, tag)
            else:
                setattr(dataset, tag, value)
        dataset.save_as(folder / f"{uid[-6:]}-{place}.dcm", enforce_file_format=True)
    return uid


@pytest.fixture
def imaged(small: Any) -> Any:
    small.spec["images"] = {"ct": {"dir": "dicom", "modality": "CT"}}
    small.spec["prediction_time"]["resolution"] = "day"
    (small.root / "dicom").mkdir()
    return small


def _source(cohort: Cohort, subject: str = "001", block: str = "ct") -> Any:
    return next(p for p in cohort.patients if p.subject_id == subject).sources[block]


def _dicom(imaged: Any) -> Path:
    folder: Path = imaged.root / "dicom"
    return folder


def test_the_latest_series_of_before_the_prediction_time_is_taken(imaged: Any) -> None:
    folder = _dicom(imaged)
    write_series(folder, "001", StudyDate="20240101")
    near = write_series(folder, "001", slices=3, StudyDate="20240228")
    write_series(folder, "001", StudyDate="20240302")
    (folder / "notes.txt").write_text("no image")
    cohort = imaged.link()
    source = _source(cohort)
    assert isinstance(source, SeriesSource)
    assert sorted(path.name for path in source.files) == [f"{near[-6:]}-{n}.dcm" for n in range(3)]
    assert (source.offset_days, source.undated, len(source.pseudonym)) == (-2.0, False, 16)
    assert cohort.flow.files.total == 8
    assert cohort.flow.files.parts["used"] == 3
    assert cohort.flow.files.parts["not chosen"] == 4
    reasons = sorted((c.chosen, c.reason, c.offset_days) for c in cohort.series)
    assert reasons == [(False, "another was chosen", -60.0), (False, "later", 1.0), (True, "", -2.0)]
    assert _source(cohort, "002") == Absence("no_series")


def test_first_and_largest(imaged: Any) -> None:
    write_series(_dicom(imaged), "001", StudyDate="20240101")
    write_series(_dicom(imaged), "001", slices=3, StudyDate="20240110")
    write_series(_dicom(imaged), "001", StudyDate="20240120")
    for rule, offset in (("first", -60.0), ("largest", -51.0), ("last", -41.0), ("nearest", -41.0)):
        imaged.spec["images"]["ct"]["choose"] = rule
        assert _source(imaged.link()).offset_days == offset


def test_the_largest_has_the_most_frames_in_however_many_files(imaged: Any) -> None:
    write_series(_dicom(imaged), "001", slices=3, StudyDate="20240101")
    pixels = np.zeros((4, 4, 4), np.uint16).tobytes()
    write_series(_dicom(imaged), "001", slices=1, StudyDate="20240110", NumberOfFrames=4, PixelData=pixels)
    imaged.spec["images"]["ct"]["choose"] = "largest"
    assert _source(imaged.link()).offset_days == -51.0


def test_a_series_that_ends_after_the_prediction_time_is_not_known_by_then(imaged: Any) -> None:
    uid = write_series(_dicom(imaged), "001", slices=2, StudyDate="20240220", AcquisitionDate="20240220")
    assert _source(imaged.link()).offset_days == -10.0
    path = sorted(_dicom(imaged).glob(f"{uid[-6:]}-*.dcm"))[-1]
    dataset = dcmread(path)
    dataset.AcquisitionDate = "20240302"
    dataset.save_as(path)
    assert _source(imaged.link()) == Absence("later")


def test_the_index_study_is_known_only_by_the_cohorts_word(imaged: Any) -> None:
    write_series(_dicom(imaged), "001", StudyDate="20240301")
    assert _source(imaged.link()) == Absence("later")
    imaged.spec["same_day"] = {"index_study": "known"}
    assert _source(imaged.link()).offset_days == 0.0


def test_a_time_of_day_decides_when_both_have_one(imaged: Any) -> None:
    imaged.spec["prediction_time"]["resolution"] = "second"
    write_series(_dicom(imaged), "001", StudyDate="20240301", AcquisitionDateTime="20240301115959")
    assert _source(imaged.link()).offset_days == pytest.approx(-1 / 86400)
    write_series(_dicom(imaged), "002", StudyDate="20240302", AcquisitionDateTime="20240302120001")
    assert _source(imaged.link(), "002") == Absence("later")


def _seen_at(imaged: Any, when: str) -> None:
    imaged.spec["prediction_time"]["resolution"] = "second"
    imaged.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), [("001", when, "", "", "")])


@pytest.mark.parametrize(
    ("acquired", "seen_at", "offset_hours"),
    [
        ("20240301080000+0200", "2024-03-01T06:00:00Z", 0.0),
        ("20240301080000+0200", "2024-03-01T05:59:59Z", None),
        ("20240301080000.5-0330", "2024-03-01T11:30:01+00:00", -0.5 / 3600),
        ("20240301080000-0330", "2024-03-01T11:29:59+00:00", None),
        ("20240301003000+1400", "2024-02-29T10:30:00Z", 0.0),
    ],
)
def test_an_offset_from_utc_counts(
    imaged: Any, acquired: str, seen_at: str, offset_hours: float | None
) -> None:
    _seen_at(imaged, seen_at)
    write_series(_dicom(imaged), "001", StudyDate=None, AcquisitionDateTime=acquired)
    source = _source(imaged.link())
    if offset_hours is None:
        assert source == Absence("later")
    else:
        assert source.offset_days * 24 == pytest.approx(offset_hours)


@pytest.mark.parametrize(
    ("acquired", "zone", "seen_at", "offset_hours"),
    [
        ("20240301080000", "+0200", "2024-03-01T06:00:00Z", 0.0),
        ("20240301080000", "+0200", "2024-03-01T05:59:59Z", None),
        ("20240301080000-0330", "+0200", "2024-03-01T11:30:00Z", 0.0),
        ("20240301", "+0200", "2024-03-01T23:00:00Z", None),
        ("20240301080000", "Berlin", "2024-03-01T23:00:00Z", None),
    ],
)
def test_the_timezone_of_the_object_holds_for_its_times(
    imaged: Any, acquired: str, zone: str, seen_at: str, offset_hours: float | None
) -> None:
    _seen_at(imaged, seen_at)
    write_series(
        _dicom(imaged), "001", StudyDate=None, AcquisitionDateTime=acquired, TimezoneOffsetFromUTC=zone
    )
    source = _source(imaged.link())
    if offset_hours is None:
        assert source == Absence("later")
    else:
        assert source.offset_days * 24 == pytest.approx(offset_hours)


def test_the_timezone_holds_for_the_time_of_the_series(imaged: Any) -> None:
    _seen_at(imaged, "2024-03-01T06:00:00Z")
    tags = {"SeriesDate": "20240301", "SeriesTime": "080000", "TimezoneOffsetFromUTC": "+0200"}
    write_series(_dicom(imaged), "001", StudyDate="20240301", **tags)
    assert _source(imaged.link()).offset_days == 0.0


@pytest.mark.parametrize(
    ("acquired", "seen_at"),
    [
        ("20240301080000+0200", "2024-03-01T09:00:00"),
        ("20240301080000", "2024-03-01T09:00:00+02:00"),
    ],
)
def test_where_only_one_says_its_offset_the_day_decides(imaged: Any, acquired: str, seen_at: str) -> None:
    _seen_at(imaged, seen_at)
    write_series(_dicom(imaged), "001", AcquisitionDateTime=acquired)
    assert _source(imaged.link()) == Absence("later")
    imaged.spec["same_day"] = {"index_study": "known"}
    assert _source(imaged.link()).offset_days == 0.0
    write_series(_dicom(imaged), "001", uid="1.2.3", AcquisitionDateTime="20240229" + acquired[8:])
    imaged.spec["same_day"] = {"index_study": "not_known"}
    assert _source(imaged.link()).offset_days == -1.0


def test_the_first_study_is_the_first_in_universal_time(imaged: Any) -> None:
    imaged.spec["prediction_time"] = {"from_image": "ct"}
    imaged.spec["images"]["ct"]["choose"] = "first"
    imaged.spec["never_columns"] = {"records.csv": {"seen_at": "not the clock here"}}
    first = write_series(_dicom(imaged), "001", slices=3, AcquisitionDateTime="20240301003000+0200")
    write_series(_dicom(imaged), "001", AcquisitionDateTime="20240229233000+0000")
    files = _source(imaged.link()).files
    assert sorted(path.name for path in files) == [f"{first[-6:]}-{n}.dcm" for n in range(3)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("20240230", None),
        ("20240301", Moment(19783)),
        ("20240301+0200", Moment(19783)),
        ("20240301120000", Moment(19783, 19783 * 86_400_000_000 + 43_200_000_000)),
        ("20240301120000.25", Moment(19783, 19783 * 86_400_000_000 + 43_200_250_000)),
        ("20240301120000-1200", Moment(19783, 19784 * 86_400_000_000, aware=True)),
        ("202403011200+1200", Moment(19783, 19783 * 86_400_000_000, aware=True)),
        ("20240301120000+1401", Moment(19783)),
        ("20240301120000+0260", Moment(19783)),
        ("2024030112:00:00", Moment(19783)),
    ],
)
def test_a_dicom_time_is_read_with_its_offset(text: str, expected: Moment | None) -> None:
    assert dicom_moment(text) == expected


def test_an_undated_series_is_refused_or_assumed_known_and_counted(imaged: Any) -> None:
    write_series(_dicom(imaged), "001", StudyDate=None)
    assert _source(imaged.link()) == Absence("undated")
    imaged.spec["images"]["ct"]["undated"] = {"assume_known": "the planning scan"}
    cohort = imaged.link()
    assert _source(cohort).undated
    assert cohort.flow.undated == {"ct": 1}
    write_series(_dicom(imaged), "001", StudyDate="20200101")
    assert _source(imaged.link()).undated is False


@pytest.mark.parametrize(
    ("settings_", "tags", "reason"),
    [
        ({"modality": "MR"}, {}, "modality"),
        ({"body_part": "HEAD"}, {}, "body part"),
        ({"description": "^lung"}, {"SeriesDescription": "bone"}, "description"),
        ({"orientation": "coronal"}, {}, "orientation"),
        ({"thickness_mm": [0, 2]}, {}, "slice thickness"),
        ({}, {"BurnedInAnnotation": "YES"}, "burned-in annotation"),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    ],
)
def test_a_series_that_does_not_fit_says_why(
    imaged: Any, settings_: dict[str, Any], tags: dict[str, Any], reason: str
) -> None:
    write_series(_dicom(imaged), "001", **tags)
    imaged.spec["images"]["ct"] = {"dir": "dicom", **settings_}
    cohort = imaged.link()
    assert _source(cohort) == Absence("not_eligible")
    assert [candidate.reason for candidate in cohort.series] == [f"not_eligible: {reason}"]


def test_the_day_of_a_source_that_counts_days(imaged: Any) -> None:
    imaged.spec["prediction_time"] = {"day": 0}
    imaged.spec["never_columns"] = {"records.csv": {"seen_at": "a date"}}
    imaged.spec["same_day"] = {"index_study": "known"}
    del imaged.spec["biomarkers"]
    imaged.spec["images"]["ct"]["time"] = "longitudinal_offset"
    for days in (-3.0, 0.0, 2.0):
        write_series(
            _dicom(imaged),
            "001",
            StudyDate="",
            LongitudinalTemporalOffsetFromEvent=days,
            LongitudinalTemporalEventType="FIRST_IMAGE",
        )
    assert _source(imaged.link()).offset_days == 0.0
    assert imaged.link().flow.times == {"day 0": 3}


def test_a_study_can_define_the_prediction_time(imaged: Any) -> None:
    imaged.spec["prediction_time"] = {"from_image": "ct"}
    imaged.spec["images"]["ct"]["choose"] = "first"
    imaged.spec["never_columns"] = {"records.csv": {"seen_at": "not the clock here"}}
    write_series(_dicom(imaged), "001", StudyDate="20240110", AcquisitionDateTime="20240110080000")
    write_series(_dicom(imaged), "001", StudyDate="20240120")
    write_series(_dicom(imaged), "002", StudyDate="20240115")
    imaged.results([("001", "1", "mg/L", "2024-01-10 07:00"), ("001", "2", "mg/L", "2024-01-10 09:00")])
    cohort = imaged.link()
    assert _source(cohort).offset_days == 0.0
    assert cohort.patients[0].sources["biomarkers"]["crp"].value == 1.0  # type: ignore[index, union-attr]
    assert cohort.flow.times == {"AcquisitionDateTime": 1, "StudyDate": 1}
    assert cohort.excluded == {"003": "no_index_study"}
    assert cohort.flow.subjects.parts == {"kept": 2, "no_index_study": 1}
    imaged.spec["images"]["ct"]["choose"] = "nearest"
    with pytest.raises(ConfigError, match="`first` or `last`"):
        imaged.link()


def test_ids_of_imaging_and_records_meet_in_a_crosswalk(imaged: Any) -> None:
    write_series(_dicom(imaged), "X-1", IssuerOfPatientID="A")
    write_series(_dicom(imaged), "X-1", IssuerOfPatientID="B", slices=3)
    write_series(_dicom(imaged), "003", IssuerOfPatientID="A")
    imaged.write("ids.csv", ("who", "pid", "site"), [("001", "X-1", "A"), ("002", "X-1", "B")])
    imaged.spec["crosswalk"] = {"table": "ids.csv", "id": "who", "patient_id": "pid", "issuer": "site"}
    cohort = imaged.link()
    assert len(_source(cohort).files) == 2
    assert len(_source(cohort, "002").files) == 3
    # a PatientID that the crosswalk does not know is nobody's, even where it looks like a subject's id
    assert _source(cohort, "003") == Absence("no_series")
    assert cohort.flow.subjects.parts == {"kept": 3, "not_in_subjects": 1}
    imaged.write("ids.csv", ("who", "pid", "site"), [("001", "X-1", "A"), ("002", "X-1", "A")])
    with pytest.raises(DataError, match="lead to several subjects"):
        imaged.link()


def test_one_id_of_two_issuers_is_not_guessed(imaged: Any) -> None:
    write_series(_dicom(imaged), "001", IssuerOfPatientID="A")
    write_series(_dicom(imaged), "001", IssuerOfPatientID="B")
    assert _source(imaged.link()) == Absence("several_issuers")


def test_a_series_of_two_patients_is_not_chosen(imaged: Any) -> None:
    uid = write_series(_dicom(imaged) / "a", "001")
    write_series(_dicom(imaged) / "b", "002", uid=uid)
    cohort = imaged.link()
    assert _source(cohort) == Absence("multiple_patients")
    assert cohort.flow.files.total == 4


def test_images_of_strangers_are_accounted_for(imaged: Any) -> None:
    write_series(_dicom(imaged), "phantom")
    cohort = imaged.link()
    assert cohort.excluded == {"phantom": "not_in_subjects"}
    assert cohort.flow.files.parts["not chosen"] == 2


def test_a_missing_folder_is_named(imaged: Any) -> None:
    _dicom(imaged).rmdir()
    with pytest.raises(DataError, match=r"the image folder dicom is not in .* make it, empty"):
        imaged.link()


def test_the_index_is_kept_between_runs(imaged: Any, tmp_path: Path) -> None:
    write_series(_dicom(imaged), "001")
    cache = tmp_path / "index"
    seen: list[tuple[int, int]] = []
    first = imaged.link(index_cache=cache, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2, 2)
    assert len(list(cache.iterdir())) == 1
    again = imaged.link(index_cache=cache)
    assert again == first
    assert again.digest == first.digest
    alone = imaged.link(index_cache=cache, subjects=["001"], outcomes=False)
    assert alone.patients[0].sources == first.patients[0].sources
    assert alone.flow.files.parts["used"] == 2


def test_the_digest_follows_what_entered(imaged: Any) -> None:
    write_series(_dicom(imaged), "001")
    first = imaged.link().digest
    assert imaged.link().digest == first
    write_series(_dicom(imaged), "001", StudyDate="20240501")
    assert imaged.link().digest == first  # a later series changes nothing that entered
    imaged.results([("001", "5", "mg/L", "2024-02-01")])
    assert imaged.link().digest != first


@pytest.mark.real
def test_of_serial_radiographs_the_one_of_day_0_is_taken(shared: Callable[[str], Path]) -> None:
    spec = load_spec(Path(__file__).parents[2] / "cohorts" / "mhh_covid")
    cohort = link(spec, shared("data/mhh_covid"), key=b"k" * 32)
    assert {p.sources["chest"].offset_days for p in cohort.patients} == {0.0}  # type: ignore[union-attr]
    reasons = Counter(candidate.reason for candidate in cohort.series)
    assert reasons == {"": 51, "later": 110, "another was chosen": 3}
    assert all(candidate.offset_days > 0 for candidate in cohort.series if candidate.reason == "later")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.lists(st.integers(2, 30), min_size=1, max_size=3, unique=True))
def test_a_later_series_never_changes_the_choice(imaged: Any, days: Sequence[int]) -> None:
    folder = _dicom(imaged)
    for old in folder.glob("*.dcm"):
        old.unlink()
    write_series(folder, "001", uid="1.2.3", StudyDate="20240210")
    before = imaged.link().patients
    for day in days:
        write_series(folder, "001", slices=4, StudyDate=f"202403{day:02d}")
    assert imaged.link().patients == before
