"""What a door says while it works: bars on a terminal, plain lines elsewhere, and how to go on."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from medmm.cli import console
from medmm.cli.console import Lines
from tests.conftest import TABLES_RECIPE

WORK = """
from medmm.cli.console import going_on, progress
import time
with progress() as bars, going_on("medmm again"):
    for done in range(4):
        bars("fitting", done, 3)
        time.sleep(0.2)
"""


def told(*reports: tuple[float, str, int, int]) -> list[str]:
    """What is said of reports that come at these seconds."""
    said: list[str] = []
    at = [0.0]
    lines = Lines(said.append, clock=lambda: at[0])
    for second, stage, done, total in reports:
        at[0] = second
        lines.report(stage, done, total)
    lines.end()
    return said


def test_a_long_stage_has_a_line_a_minute_and_one_at_its_end():
    said = told(*((float(second), "fitting", second, 600) for second in range(1, 601)))
    assert said[0] == "progress fitting: 60 of 600"
    assert said[1] == "progress fitting: 120 of 600, 2 min, about 8 min left"
    assert said[-1] == "progress fitting: 600 of 600, 10 min"
    assert len(said) == 10


def test_short_stages_are_not_worth_a_line_and_an_unfinished_one_says_where_it_stood():
    assert told((0, "scanning DICOM", 0, 0), (1, "scanning DICOM", 1, 9), (2, "scanning DICOM", 9, 9)) == []
    assert told((0, "scoring", 1, 9), (7, "scoring", 9, 9)) == ["progress scoring: 9 of 9"]
    assert told((0, "scoring", 1, 9), (7, "scoring", 4, 9)) == ["progress scoring: 4 of 9"]


def test_a_stage_that_begins_again_for_each_split_does_not_flood():
    epochs = [(10 * split + epoch, "pretraining", epoch, 9) for split in range(90) for epoch in range(1, 10)]
    said = told(*((float(second), *rest) for second, *rest in epochs))
    assert len(said) <= 900 / 60 + 2
    assert all("left" not in line or int(line.split()[-3]) < 2 for line in said)


def test_many_hours_are_told_in_hours():
    said = told((0, "fitting", 0, 100), (7200, "fitting", 25, 100))
    assert said == ["progress fitting: 25 of 100, 2 h 0 min, about 6 h 0 min left"]


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}], ids=["plain", "FORCE_COLOR"])
def test_a_training_run_without_a_terminal_prints_plain_lines(door, written, tmp_path, monkeypatch, forced):
    for name, value in forced.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(console, "SHORT_SECONDS", 0.0)
    recipe = TABLES_RECIPE.replace("cohort: data", f"cohort: {written}")
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = door("train", tmp_path, "--root", written, "--runs", tmp_path / "runs", "--smoke")
    assert done.code == 0, done.err
    assert "progress fitting: " in done.err
    assert done.out.startswith("A rehearsal, ")
    assert not set(done.err) & {"\x1b", "\r"}


def test_a_terminal_has_bars_and_an_interrupt_says_how_to_go_on():
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK + "        raise KeyboardInterrupt"],
        stderr=end,
        env={**os.environ, "TERM": "xterm"},
    )
    assert process.wait(60) == 1 or process.returncode < 0
    printed = os.read(terminal, 1 << 16).decode()
    os.close(end)
    os.close(terminal)
    assert "fitting" in printed
    assert "\x1b[" in printed
    assert "medmm: go on with: medmm again" in printed
    assert "medmm: interrupted" in printed
