"""Volume certificates on disk: typed, private, and the same for the same series."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from medmm.dicom import certificate_summary, load_many, scan
from medmm.dicom.loading import Loaded
from medmm.dicom.parallel import read_series
from medmm.errors import OutputError
from medmm.outputs.certificates import TYPES, write_certificates
from medmm.sources.duck import Engine, literal, read_parquet
from tests.conftest import SmallRun
from tests.dicom.conftest import Scanner

KEY = b"k" * 32


def row(loaded: Loaded) -> dict[str, object]:
    return loaded.certificate.row(KEY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a copy and a localizer, one with a gap, two echoes, a 2-D image, a damaged file."""
    scanner = Scanner(tmp_path_factory.mktemp("certified") / "dicom")
    scanner.stack()
    scanner.slice(2.5, "copy.dcm")
    scanner.slice(0, "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scanner.series = generate_uid()
    for z in (0, 2, 6, 8):
        scanner.slice(z, f"gap-{z}.dcm")
    scanner.series = generate_uid()
    for echo in (1, 2):
        for z in (0, 3, 6):
            scanner.slice(z, f"echo-{echo}-{z}.dcm", EchoNumbers=echo, Modality="MR")
    scanner.series = generate_uid()
    flat = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
    whole = scanner.save(scanner.dataset(Modality="DX", **flat), "flat.dcm")
    (scanner.folder / "cut.dcm").write_bytes(whole.read_bytes()[:-8])
    return scanner.folder


def rows_of(folder: Path, processes: int = 1) -> list[dict[str, object]]:
    series = [[folder / file for file in entry.files] for entry in scan(folder).series]
    return [found for results in load_many(series, row, processes=processes) for found in results]


def test_the_file_is_typed_private_and_whole(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "certificates.parquet"
    write_certificates(rows_of(folder), place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["certificates.parquet"]
    with Engine() as engine:
        described = engine.rows(f"DESCRIBE SELECT * FROM read_parquet({literal(str(place))})")
    assert {name: kind for name, kind, *_ in described} == TYPES
    columns = read_parquet(place)
    fates = sorted(zip(columns["status"], columns["reason"], strict=True))
    assert fates == [
        ("refused", "corrupt"),
        ("refused", "missing_slices"),
        ("set_aside", "duplicate"),
        ("set_aside", "localizer"),
        ("used", ""),
        ("used", ""),
        ("used", ""),
    ]
    used = [place for place, status in enumerate(columns["status"]) if status == "used"]
    assert all(len(columns["sha256"][place]) == 64 and columns["shape"][place] for place in used)
    text = repr(columns)
    assert not any(entry.series_uid in text or entry.study_uid in text for entry in scan(folder).series)
    write_certificates([], tmp_path / "none.parquet")
    assert list(read_parquet(tmp_path / "none.parquet")) == list(columns)


def test_another_suffix_is_refused_and_says_which(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        write_certificates([], tmp_path / "certificates.csv")


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_same_input_gives_the_same_certificates_under_any_names_in_any_order(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance = random.Random(seed)
    expected = sorted(map(repr, rows_of(folder)))
    moved = tmp_path_factory.mktemp("moved")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chance.shuffle(files)
    for number, path in enumerate(files):
        place = moved / str(chance.randrange(3)) / f"{number:03d}"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
    found = []
    for entry in scan(moved).series:
        members = [moved / file for file in entry.files]
        chance.shuffle(members)
        found += [row(loaded) for loaded in read_series(members)]
    assert sorted(map(repr, found)) == expected


def test_another_process_gives_the_same_certificates(folder: Path) -> None:
    expected = sorted(map(repr, rows_of(folder)))
    assert sorted(map(repr, rows_of(folder, processes=2))) == expected
    code = (
        "import sys; from pathlib import Path; from tests.outputs.test_certificates import rows_of\n"
        "print('\\n'.join(sorted(map(repr, rows_of(Path(sys.argv[1]))))))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.stdout.splitlines() == expected


def test_the_summary_counts_and_names_no_series(folder: Path) -> None:
    rows = rows_of(folder)
    summary = certificate_summary(rows)
    assert summary["status"]["used"] == 3
    assert summary["status"]["refused.missing_slices"] == 1
    assert summary["spacing_mm"]["3-D"] == [(0.8, 0.8), (0.5, 0.5), (2.5, 3.0)]
    assert summary["transfer_syntax"] == {"1.2.840.10008.1.2.1": len(rows)}
    assert not any(str(found["series"]) in repr(summary) for found in rows)


def test_a_training_run_keeps_certificates_and_tracks_their_summary(small_run: SmallRun) -> None:
    place = small_run.run / "local" / "certificates.parquet"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    columns = read_parquet(place)
    assert set(columns["block"]) == {"ct"}
    used = [sha for sha, status in zip(columns["sha256"], columns["status"], strict=True) if status == "used"]
    assert used
    assert all(len(sha) == 64 for sha in used)
    with sqlite3.connect(small_run.folder / "runs" / "mlflow.db") as database:
        tracked = dict(database.execute("SELECT key, value FROM metrics WHERE key LIKE 'ct.series.%'"))
    assert tracked["ct.series.used"] == len(used)
    assert sum(tracked[f"ct.series.{status}"] for status in ("used", "set_aside", "refused")) == len(
        columns["status"]
    )
    (kept,) = (small_run.folder / "runs" / "mlartifacts").rglob("certificates/ct.json")
    summary = json.loads(kept.read_text())
    assert summary["transfer_syntax"]
    assert len(summary["spacing_mm"]["3-D"]) == 3
    written = [path for path in small_run.folder.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    uids = {entry.series_uid for entry in scan(small_run.data).series}
    cached = [path for path in written if "runs" in path.parts]
    assert cached
    assert not any(uid.encode() in path.read_bytes() for path in cached for uid in uids)
