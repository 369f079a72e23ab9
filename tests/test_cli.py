from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = [
    (),
    ("cohort",),
    ("cohort", "synthesize"),
    ("cohort", "check"),
    ("cohort", "split"),
    ("cohort", "table1"),
    ("init",),
    ("train",),
    ("launch",),
    ("search",),
    ("pretrain",),
    ("score",),
    ("explain",),
    ("evaluate",),
    ("verify",),
    ("demo",),
    ("dicom", "index"),
    ("dicom", "inspect"),
]
LONG = {("train",), ("launch",), ("search",), ("pretrain",)}
"""Hours, perhaps: each says how to go on after a stop."""
HEAVY = {
    "torch",
    "monai",
    "mlflow",
    "shap",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "pydicom",
    "duckdb",
    "numpy",
}


def medmm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medmm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "medmm")
def test_every_door_explains_itself(command):
    done = medmm(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if command not in ((), ("cohort",)):
        assert "Example" in done.stdout
    if command in LONG:
        assert "stopped" in done.stdout
        assert ("--resume runs/x-…" in " ".join(done.stdout.split())) == (command != ("pretrain",))


def test_help_imports_nothing_heavy():
    code = "import sys; from medmm import cli; print(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())


def test_a_mistyped_command_is_a_usage_error():
    assert medmm("trian").returncode == 2
    assert medmm("explain", "bundle", "--cohort", "x").returncode == 2


def test_completion_can_be_shown():
    # Which shell asks is read from the process that calls, so a shell calls, and waits.
    called = f"{sys.executable} -m medmm --show-completion; true"
    done = subprocess.run(["bash", "-c", called], capture_output=True, text=True, check=False)
    assert "complete" in done.stdout.lower()


def test_without_arguments_it_shows_the_doors():
    assert "train" in medmm().stdout


def test_the_next_command_finds_the_same_data(tmp_path):
    data, cohort = tmp_path / "my data", tmp_path / "cohort"
    assert medmm("cohort", "synthesize", str(data), "--patients", "40").returncode == 0
    (data / "cohort.yaml").rename(cohort.mkdir() or cohort / "cohort.yaml")
    for door in (
        ("check",),
        ("table1", "--out", str(tmp_path)),
        ("split", "--out", str(tmp_path / "splits.json")),
    ):
        done = medmm("cohort", door[0], str(cohort), "--root", str(data), *door[1:])
        assert done.returncode == 0, done.stderr
        assert f"--root '{data}'" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("cohort", "split", "COHORT", "--out", "."),
        ("cohort", "split", "COHORT", "--out", "nowhere/splits.json"),
        ("cohort", "split", "COHORT", "--out", __file__),
        ("cohort", "table1", "COHORT", "--out", __file__),
        ("cohort", "check", "COHORT", "--red-team", "--out", f"{__file__}/reports"),
        ("explain", "BUNDLE", "--cohort", "COHORT", "--folds", "--out", __file__),
        ("dicom", "inspect", "COHORT", "--out", "nowhere/sheet.png"),
        ("dicom", "inspect", "COHORT", "--out", "sheet.jpg"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(command):
    done = medmm(*command)
    assert done.returncode == 8
    assert "name " in done.stderr
    assert len(done.stderr.splitlines()) == 1
