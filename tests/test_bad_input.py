"""What goes wrong is one clear line with its own exit code, and leaves nothing half-written."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from medmm.cohort.access import open_cohort
from medmm.cohort.synthetic import synthesize
from medmm.errors import ConfigError, OutputError
from medmm.outputs.table import from_json
from medmm.score import score
from tests.conftest import TABLES_RECIPE
from tests.interrupt import interrupted

pytestmark = pytest.mark.xdist_group("bad_input")


@pytest.fixture
def place(written: Path, tmp_path: Path) -> Path:
    """A small cohort and a recipe that may be damaged."""
    shutil.copytree(written, tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(TABLES_RECIPE)
    return tmp_path


def run(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medmm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=place, check=False)


def check(place: Path) -> subprocess.CompletedProcess[str]:
    return run(place, "cohort", "check", "data", "--root", "data")


def rewritten(file: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with file.open() as stream:
        rows = change(list(csv.DictReader(stream)))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    line = " ".join(done.stderr.split())
    assert line.startswith("medmm:"), line
    assert "Traceback" not in line
    for word in words:
        assert word in line, line


def test_a_missing_table(place):
    (place / "data" / "labels.csv").unlink()
    assert_refused(check(place), 5, "labels.csv")


def test_a_missing_column(place):
    rewritten(
        place / "data" / "records.csv",
        lambda rows: [{k: v for k, v in r.items() if k != "age"} for r in rows],
    )
    assert_refused(check(place), 5, "records.csv", "age")


def test_a_column_without_a_role(place):
    rewritten(place / "data" / "records.csv", lambda rows: [{**row, "ward": "3"} for row in rows])
    assert_refused(check(place), 4, "ward", "role")


def test_an_unknown_key(place):
    replaced(place / "data" / "cohort.yaml", "same_day:", "sameday:")
    assert_refused(check(place), 4, "sameday", "did you mean 'same_day'")


def test_an_unknown_key_of_a_recipe(place):
    replaced(place / "recipe.yaml", "epochs", "epoch")
    assert_refused(run(place, "train", "."), 4, "epoch", "did you mean 'epochs'")


def test_an_unknown_outcome(place):
    replaced(place / "recipe.yaml", "outcome: deterioration", "outcome: dead")
    assert_refused(run(place, "train", ".", "--root", "data"), 4, "dead", "deterioration")


def test_a_cohort_that_nobody_is_left_of(place):
    with (place / "data" / "cohort.yaml").open("a") as file:
        file.write("exclusions: {young: {field: age, below: 200}, no_age: {field: age, missing: true}}\n")
    assert_refused(check(place), 5, "no patient is left to train on or to score")


def test_duplicate_patient_rows(place):
    rewritten(place / "data" / "records.csv", lambda rows: [*rows, {**rows[0], "age": "41"}])
    assert_refused(check(place), 5, "records.csv")


def test_an_outcome_of_one_class(place):
    rewritten(
        place / "data" / "labels.csv",
        lambda rows: [{**row, "deterioration": "0" if row["deterioration"] else ""} for row in rows],
    )
    assert_refused(run(place, "train", ".", "--root", "data"), 5, "deterioration", "class")


def test_too_many_results_that_cannot_be_read(place):
    rewritten(
        place / "data" / "biomarkers.csv",
        lambda rows: [{**r, "value": "see report" if i % 3 else r["value"]} for i, r in enumerate(rows)],
    )
    assert_refused(check(place), 5, "max_unparsable")


def test_an_output_folder_that_cannot_be_written(place):
    (place / "file").write_text("")
    assert_refused(run(place, "train", ".", "--root", "data", "--runs", "file/runs"), 8, "file/runs")


def test_a_draft_with_open_questions(place):
    replaced(place / "data" / "cohort.yaml", "same_day:", "# ? what shares the day?\nsame_day:")
    assert_refused(check(place), 4, "draft", "what shares the day?")


def test_a_bundle_with_a_changed_byte(small_copy):
    place, bundle = small_copy.folder, small_copy.bundle
    graph = bundle / "fusion.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(bytes(content))
    arguments = (bundle, "--cohort", "data", "--root", "data")
    assert_refused(run(place, "score", *arguments, "--out", "scores.parquet"), 7, "fusion.onnx")
    assert_refused(run(place, "explain", *arguments, "--folds"), 7, "fusion.onnx")
    assert_refused(run(place, "verify", bundle), 7, "fusion.onnx")
    assert not (place / "scores.parquet").exists()
    assert not (place / "reports").exists()


def test_no_patient_is_named_in_an_error(place):
    with (place / "data" / "records.csv").open() as file:
        ids = [row["patient_id"] for row in csv.DictReader(file)]
    rewritten(place / "data" / "records.csv", lambda rows: [*rows, {**rows[0], "age": "41"}])
    printed = check(place).stderr
    assert not [subject for subject in ids if subject in printed]


def test_ctrl_c_in_the_middle_leaves_a_run_that_resumes(place):
    replaced(place / "recipe.yaml", "epochs: 2", "epochs: 4000, patience: 4000")
    code, printed = interrupted(
        [sys.executable, "-m", "medmm", "train", ".", "--root", "data"],
        once=lambda: list((place / "runs").glob("*/fits/*/*")),
        cwd=place,
    )
    assert code == 130, printed
    assert "Traceback" not in printed
    left = next((place / "runs").glob("small-*"))
    assert not (left / "bundle").exists()
    assert not list(left.glob(".bundle-*"))
    assert "--resume" in printed
    assert os.listdir(left / "fits")  # noqa: PTH208


def test_a_patient_without_any_data_is_a_row_with_its_reason(place, small_run):
    subject = "000999"
    rewritten(
        place / "data" / "records.csv",
        lambda rows: [
            *rows,
            dict.fromkeys(rows[0], "") | {"patient_id": subject, "assessed_at": rows[0]["assessed_at"]},
        ],
    )
    asked = ("score", small_run.bundle, "--cohort", "data", "--root", "data", "--patient", subject)
    done = run(place, *asked)
    assert done.returncode == 0, done.stderr
    assert '"status": "refused"' in done.stdout
    assert '"reason": "no_data"' in done.stdout
    assert_refused(run(place, *asked, "--max-refused", 0), 3, "no_data")


def used_series(place: Path, small_run) -> Iterator[tuple[str, list[Path]]]:
    """Yield patients whose CT the bundle uses, with its files in the place that may be damaged."""
    used = {row.subject_id for row in score(small_run.bundle, small_run.data, root=small_run.data)
            if row.modalities["ct"] == "used"}  # fmt: skip
    for patient in open_cohort(small_run.data, small_run.data, outcomes=False).patients:
        if patient.subject_id in used:
            files = patient.sources["ct"].files
            yield patient.subject_id, [place / "data" / file.relative_to(small_run.data) for file in files]


def claiming(file: Path) -> None:
    """Let a header claim 65535 rows and columns that its pixels do not have."""
    image = pydicom.dcmread(file)
    image.Rows = image.Columns = 65535
    image.save_as(file)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in its header": (lambda file: os.truncate(file, 700), "missing_slices"),
    "cut in its pixels": (lambda file: os.truncate(file, file.stat().st_size - 20), "corrupt"),
    "empty": (lambda file: file.write_bytes(b""), "missing_slices"),
    "text": (lambda file: file.write_text("see the report\n" * 50), "missing_slices"),
    "huge": (claiming, "corrupt"),
}


def test_unreadable_dicom_is_accounted_for_and_costs_its_patient_the_image_alone(place, small_run, door):
    chosen = dict(zip(DAMAGE, used_series(place, small_run), strict=False))
    on_disk = sum(file.is_file() for file in (place / "data" / "dicom").rglob("*"))
    for name, (_, files) in chosen.items():
        DAMAGE[name][0](files[len(files) // 2])
    data = place / "data"
    checked = door("cohort", "check", data, "--root", data)
    assert checked.code == 0, checked.err
    total, parts = re.search(r"files (\d+) = ([^\n;]+)", checked.out).groups()
    assert int(total) == on_disk == sum(map(int, re.findall(r"\d+", parts)))
    asked = [word for subject, _ in chosen.values() for word in ("--patient", subject)]
    scored = door("score", small_run.bundle, "--cohort", data, "--root", data, *asked)
    assert scored.code == 0, scored.err
    assert "Traceback" not in scored.err
    rows = {row.subject_id: row for row in map(from_json, scored.out.splitlines())}
    reasons = {name: rows[subject].modalities["ct"] for name, (subject, _) in chosen.items()}
    assert reasons == {name: reason for name, (_, reason) in DAMAGE.items()}
    assert {row.status for row in rows.values()} == {"scored"}
    listed = door("dicom", "index", data / "dicom")
    assert listed.code == 0, listed.err
    assert "not_dicom" in listed.out
    assert not [subject for subject, _ in chosen.values() if subject in listed.out + scored.err + checked.err]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shape: [16, 16, 8]", "shape: [4096, 4096, 4096]", "68,719,476,736 voxels"),
        ("channels: [4, 8]", "channels: [1000000]", "encoder.channels"),
        ("shape: [16, 16, 8]", "shape: [512, 512, 512]", "lower fitting.batch_size or the shape"),
        ("epochs: 2", "learning_rate: .inf", "learning_rate"),
    ],
)
def test_absurd_sizes_are_one_line_before_anything_is_made(place, small_run, door, old, new, said):
    shutil.copy(small_run.folder / "recipe.yaml", place / "recipe.yaml")
    replaced(place / "recipe.yaml", old, new)
    done = door("train", place, "--root", place / "data", "--runs", place / "runs", "--dry-run")
    assert (done.code, said in " ".join(done.err.split())) == (4, True), done.err
    assert not list((place / "runs").glob("cache/*"))


def test_a_place_with_a_nul_is_refused(place):
    from medmm.outputs.table import check_place
    from medmm.report.page import write_page
    from medmm.train import open_run, plan

    with pytest.raises(OutputError, match="no path may hold"):
        check_place(Path("a\0b/scores.csv"))
    with pytest.raises(OutputError, match="no path may hold"):
        write_page("<p>", Path("a\0b/page.html"))
    with pytest.raises(OutputError, match="no path may hold"):
        synthesize(Path("a\0b"), patients=60)
    planned = plan(place, root=place / "data")
    with pytest.raises(OutputError, match="no path may hold"):
        open_run(planned, Path("a\0b"))
    replaced(place / "recipe.yaml", "cohort: data", 'cohort: "a\\0b"')
    with pytest.raises(ConfigError, match="no value holds a NUL"):
        plan(place)
