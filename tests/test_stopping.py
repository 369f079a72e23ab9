"""A run that is stopped from outside: what it leaves, what it says, and how it is taken up again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from medmm import train as story
from medmm.bundle import verify
from medmm.errors import ConfigError
from medmm.running import held
from tests.conftest import TABLES_RECIPE

pytestmark = pytest.mark.xdist_group("small")


def test_a_terminated_run_has_its_own_exit_code_and_resumes(written, tmp_path):
    shutil.copytree(written, tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(TABLES_RECIPE)
    command = [sys.executable, "-m", "medmm", "train", ".", "--root", "data", "--smoke"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/fits/*/*/done.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    assert "Traceback" not in printed
    run = next((tmp_path / "runs").glob("small-*"))
    assert f"--smoke --runs runs --resume runs/{run.name}" in printed
    assert printed.startswith(f"run      runs/{run.name}; ")
    assert not (run / "bundle").exists()
    assert not list(run.glob(".bundle-*"))
    fitted = {file: file.stat().st_mtime_ns for file in run.rglob("done.safetensors")}
    assert fitted
    planned = story.plan(tmp_path, root=tmp_path / "data", smoke=True)
    assert story.open_run(planned, tmp_path / "runs", run) == run
    with held(run), pytest.raises(ConfigError, match="another command is at work in"):
        story.train(planned, run, register=False)
    fewer = replace(planned, patients=planned.patients[1:])
    with pytest.raises(ConfigError, match="of another selection of patients"):
        story.open_run(fewer, tmp_path / "runs", run)
    trained = story.train(planned, run, register=False)
    assert verify(run / "bundle") == trained.sha256
    assert {file: file.stat().st_mtime_ns for file in fitted} == fitted
    with pytest.raises(ConfigError, match="is finished, and its bundle stays"):
        story.open_run(planned, tmp_path / "runs", run)


def test_a_finished_run_is_not_taken_up_again(small_run, door):
    before = verify(small_run.bundle)
    done = door(
        "train", small_run.folder, "--root", small_run.data, "--smoke",
        "--runs", small_run.folder / "runs", "--resume", small_run.run,
    )  # fmt: skip
    assert done.code == 4
    assert "is finished, and its bundle stays; start anew without --resume" in " ".join(done.err.split())
    assert verify(small_run.bundle) == before


def test_what_is_no_run_or_another_is_not_taken_up(small_copy, door, tmp_path):
    shutil.rmtree(small_copy.bundle)
    asked = ("train", small_copy.folder, "--root", small_copy.data, "--runs", tmp_path / "runs", "--resume")
    other = door(*asked, small_copy.run)  # without --smoke it is another recipe
    assert (other.code, "of another recipe" in other.err) == (4, True)
    nothing = door(*asked, tmp_path)
    assert (nothing.code, "is not a run" in nothing.err) == (4, True)
    assert not (tmp_path / "runs").exists()
