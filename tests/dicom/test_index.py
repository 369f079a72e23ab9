"""The index of a folder: every file once, unchanged files not opened, nothing decoded."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from medmm.dicom import scan
from medmm.errors import DicomRefusal, OutputError

SR = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture
def archive(scanner):
    """Two patients, one with a report, a text file and a broken file beside them."""
    scanner.stack(BodyPartExamined="CHEST", StudyDate="20200102", SeriesDescription="Thorax 2.5")
    scanner.slice(SOPClassUID=SR, SeriesInstanceUID=generate_uid(), PixelData=None)
    scanner.series = scanner.study = generate_uid()
    scanner.slice(
        name="sub/one.dcm",
        PatientID="P0",
        Modality="MR",
        AcquisitionDate="20200203",
        AcquisitionTime="101112.5",
    )
    (scanner.folder / "notes.txt").write_text("nothing")
    (scanner.folder / "broken.dcm").write_bytes(bytes(128) + b"DICM")
    return scanner.folder


def test_every_file_is_there_once(archive):
    index = scan(archive)
    on_disk = sorted(p.relative_to(archive).as_posix() for p in archive.rglob("*") if p.is_file())
    assert [entry.path for entry in index.files] == on_disk
    assert index.opened == len(on_disk)
    reasons = sorted((entry.status, entry.reason) for entry in index.files)
    assert reasons == [
        ("refused", "corrupt"),
        *[("series", "")] * 6,
        ("set_aside", "no_pixel_data"),
        ("set_aside", "not_dicom"),
    ]
    assert sorted(path for series in index.series for path in series.files) == [
        entry.path for entry in index.files if entry.status == "series"
    ]


def test_series_say_what_their_headers_say(archive):
    first, second = scan(archive).series
    assert (first.patient_id, second.patient_id) == ("P0", "P1")
    assert first.acquisition_datetime == "20200203101112.5"
    assert second.body_part == "CHEST"
    assert second.description == "Thorax 2.5"
    assert second.orientation == (1, 0, 0, 0, 1, 0)
    assert second.thickness_mm == 2.5
    assert (second.rows, second.columns) == (3, 4)
    assert second.study_date == "20200102"
    assert len(second.files) == 5


def test_of_patient(archive):
    index = scan(archive)
    assert [series.patient_id for series in index.of_patient("P0")] == ["P0"]
    assert index.of_patient("nobody") == ()


def test_rule_11_a_localizer_among_slices_does_not_speak_for_the_series(scanner):
    slices = {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "Modality": "MR"}
    scanner.stack(**slices)
    scanner.slice(Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SliceThickness=9)
    (series,) = scan(scanner.folder).series
    assert (series.image_type, series.thickness_mm) == (("ORIGINAL", "PRIMARY", "M"), 2.5)
    scouts = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": generate_uid()}
    scanner.slice(**scouts)
    assert (
        "LOCALIZER"
        in {entry.series_uid: entry for entry in scan(scanner.folder).series}[
            scouts["SeriesInstanceUID"]
        ].image_type
    )


def test_rule_27_one_burnt_in_image_makes_a_series_burnt_in(scanner):
    scanner.stack(BurnedInAnnotation="NO")
    assert scan(scanner.folder).series[0].burned_in == "NO"
    scanner.slice(BurnedInAnnotation="YES")
    assert scan(scanner.folder).series[0].burned_in == "YES"


def test_a_series_is_as_late_as_its_last_image(scanner):
    for day in ("20200203", "20200301", "20200201"):
        scanner.slice(
            AcquisitionDate=day,
            AcquisitionTime="101112",
            SeriesDate=day,
            StudyDate=day,
            LongitudinalTemporalOffsetFromEvent=float(day[-3:]),
        )
    scanner.slice()
    (series,) = scan(scanner.folder).series
    assert series.acquisition_datetime == "20200301101112"
    assert (series.series_datetime, series.study_date) == ("20200301", "20200301")
    assert series.longitudinal_offset_days == 301


def test_a_series_counts_the_frames_of_all_its_files(scanner, tmp_path):
    scanner.stack()
    other = {"SeriesInstanceUID": generate_uid(), "PatientID": "P2"}
    for frames in (3, 4):
        scanner.slice(pixels=np.zeros((frames, 3, 4), np.int16), **other)
    for opened in (7, 0):
        index = scan(scanner.folder, cache=tmp_path / "index")
        assert (index.opened, [series.frames for series in index.series]) == (opened, [5, 7])


def test_two_patients_under_one_series_are_both_named(scanner):
    scanner.slice(0.0)
    scanner.slice(2.5, PatientID="P2")
    (series,) = scan(scanner.folder).series
    assert series.patient_ids == ("P1", "P2")


def test_the_second_scan_opens_what_has_changed(archive, tmp_path):
    cache = tmp_path / "cache" / "index.json"
    first = scan(archive, cache=cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    second = scan(archive, cache=cache)
    assert second.opened == 0
    assert (second.files, second.series) == (first.files, first.series)
    changed = archive / first.series[0].files[0]
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    (archive / "notes.txt").unlink()
    (archive / "new.txt").write_text("x")
    third = scan(archive, cache=cache)
    assert third.opened == 2
    assert third.files == scan(archive).files
    assert sorted(p.name for p in cache.parent.iterdir()) == ["index.json"]


def test_files_touched_are_read_again(archive, tmp_path):
    cache = tmp_path / "index.json"
    scan(archive, cache=cache)
    os.utime(archive / "sub/one.dcm", ns=(1, 1))
    assert scan(archive, cache=cache).opened == 1


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"version": 1}', b"\xff\xfe", b'{"version": 99, "root": "x"}']
)
def test_an_unreadable_cache_is_no_cache(archive, tmp_path, content):
    cache = tmp_path / "index.json"
    cache.write_bytes(content)
    index = scan(archive, cache=cache)
    assert index.opened == len(index.files)
    assert json.loads(cache.read_text().splitlines()[0])["root"] == str(archive)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_cache_that_was_cut_gives_the_same_index(archive, tmp_path, share):
    cache = tmp_path / "index.json"
    whole = scan(archive, cache=cache)
    content = cache.read_bytes()
    cache.write_bytes(content[: int(len(content) * share)])
    again = scan(archive, cache=cache)
    assert (again.files, again.series, again.masks) == (whole.files, whole.series, whole.masks)
    assert cache.read_bytes() == content


def test_a_cache_of_another_folder_is_not_used(archive, tmp_path):
    cache = tmp_path / "index.json"
    scan(archive, cache=cache)
    (tmp_path / "other").mkdir()
    assert scan(tmp_path / "other", cache=cache).files == ()


def test_a_cache_that_cannot_be_written(archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        scan(archive, cache=tmp_path / "file" / "index.json")


def test_links_out_of_the_folder_are_set_aside(archive, tmp_path):
    outside = tmp_path / "outside.dcm"
    outside.write_bytes((archive / "sub/one.dcm").read_bytes())
    (archive / "link.dcm").symlink_to(outside)
    (archive / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    (archive / "loop").symlink_to(archive)
    index = scan(archive)
    links = {entry.path: entry.reason for entry in index.files if entry.path in ("link.dcm", "dangling.dcm")}
    assert links == {"link.dcm": "outside_root", "dangling.dcm": "outside_root"}
    assert len(index.series) == 2


def test_progress_ends_at_the_number_of_files(archive):
    calls = []
    scan(archive, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (9, 9)
    assert calls == sorted(calls)


def test_no_such_folder(tmp_path):
    with pytest.raises(DicomRefusal, match="no_dicom"):
        scan(tmp_path / "nowhere")


def test_the_order_of_files_on_disk_does_not_matter(scanner, tmp_path):
    scanner.stack()
    first = scan(scanner.folder)
    other = tmp_path / "again"
    other.mkdir()
    for path in sorted(scanner.folder.iterdir(), reverse=True):
        (other / path.name).write_bytes(path.read_bytes())
    assert scan(other).series == first.series


def test_serial_radiographs_carry_their_day(scanner):
    for day in (0.0, 3.5):
        scanner.slice(
            Modality="DX",
            SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1",
            SeriesInstanceUID=generate_uid(),
            LongitudinalTemporalOffsetFromEvent=day,
            LongitudinalTemporalEventType="ENROLLMENT",
        )
    offsets = sorted(series.longitudinal_offset_days for series in scan(scanner.folder).series)
    assert offsets == [0.0, 3.5]


def test_a_cached_index_of_ten_thousand_files_reads_quickly(scanner, tmp_path):
    data = scanner.slice(pixels=np.zeros((2, 2), np.int16)).read_bytes()
    for folder in range(20):
        (scanner.folder / str(folder)).mkdir()
        for name in range(250):
            (scanner.folder / str(folder) / f"{name}.dcm").write_bytes(data)
    cache = tmp_path / "index.json"
    index = scan(scanner.folder, cache=cache)
    assert cache.stat().st_size < 1000 * len(index.files)
    spent = []
    for _ in range(3):
        start = time.process_time()
        assert scan(scanner.folder, cache=cache).opened == 0
        spent.append(time.process_time() - start)
    assert min(spent) < 0.15


@contextmanager
def somebody():
    """Be a user whom permissions bind: root reads everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def locked():
    """A folder outside the private one of the tests, with a file and a folder that nobody may read."""
    with tempfile.TemporaryDirectory(prefix="medmm-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "notes.txt").write_text("nothing")
        (folder / "locked").mkdir(mode=0o700)
        (folder / "locked" / "inside.dcm").write_text("nothing")
        (folder / "secret.dcm").write_text("nothing")
        (folder / "locked").chmod(0)
        (folder / "secret.dcm").chmod(0)
        (folder / "round").symlink_to("round")
        yield folder
        (folder / "locked").chmod(0o700)


def test_what_cannot_be_read_is_refused_with_its_reason(locked, tmp_path):
    with somebody():
        index = scan(locked)
    assert [(entry.path, entry.status, entry.reason) for entry in index.files] == [
        ("locked/", "refused", "unreadable"),
        ("notes.txt", "set_aside", "not_dicom"),
        ("round", "refused", "unreadable"),
        ("secret.dcm", "refused", "unreadable"),
    ]


def test_what_became_readable_is_read_again(locked):
    with tempfile.TemporaryDirectory(prefix="medmm-test-") as cache:
        Path(cache).chmod(0o777)
        with somebody():
            scan(locked, cache=Path(cache) / "index")
        (locked / "locked").chmod(0o755)
        (locked / "secret.dcm").chmod(0o644)
        with somebody():
            index = scan(locked, cache=Path(cache) / "index")
        found = {entry.path: entry.reason for entry in index.files}
        assert found["secret.dcm"] == found["locked/inside.dcm"] == "not_dicom"


def test_a_root_that_cannot_be_listed_is_refused(locked):
    with somebody(), pytest.raises(DicomRefusal, match="no_dicom: the folder cannot be read"):
        scan(locked / "locked")


def test_a_cache_that_cannot_be_put_in_its_place_leaves_nothing(archive, tmp_path):
    (tmp_path / "kept" / "index").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        scan(archive, cache=tmp_path / "kept" / "index")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["index"]
