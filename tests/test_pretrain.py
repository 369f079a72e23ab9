"""``medmm pretrain`` and the run that takes up what it left, through the doors."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RECIPE, Said

PRETRAINING = """
pretraining: {objective: contrastive, epochs: 2, batch_size: 16}
"""


@pytest.fixture
def pipeline(written: Path, tmp_path: Path) -> Path:
    """A pipeline over a copy of the small cohort in which every third patient has no label."""
    shutil.copytree(written, tmp_path / "data", ignore=shutil.ignore_patterns("dicom", "labels.csv"))
    shutil.copytree(written / "dicom", tmp_path / "data" / "dicom", copy_function=os.link)
    with (written / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (tmp_path / "data" / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for place, row in enumerate(rows) if place % 3)
    (tmp_path / "recipe.yaml").write_text(RECIPE + PRETRAINING)
    return tmp_path


def told(done: Said, word: str) -> str:
    return next(line for line in (done.out + done.err).splitlines() if word in line)


def test_pretrained_then_trained_from_it(door: Callable[..., Said], pipeline: Path) -> None:
    """The unlabelled are pretrained on, and the run says what it began with; other sizes are refused."""
    data, runs, out = pipeline / "data", pipeline / "runs", pipeline / "pretrained"
    common = ("--root", data, "--runs", runs)
    done = door("pretrain", pipeline, *common, "--out", out)
    assert done.code == 0, done.err
    words = told(done, "patients").split()
    assert 0 < int(words[words.index("split,") + 1]) < int(words[1])
    assert sorted(path.suffix for path in out.iterdir()) == [".json", *[".safetensors"] * 3, ".sha256"]
    again = door("pretrain", pipeline, *common, "--out", pipeline / "again")
    assert told(again, "sha256").split()[1] == told(done, "sha256").split()[1]
    taken = RECIPE + PRETRAINING + "pretrained: pretrained\n"
    (pipeline / "recipe.yaml").write_text(taken)
    trained = door("train", pipeline, *common, "--smoke")
    assert trained.code == 0, trained.err
    page = next(runs.glob("small-*/training.html")).read_text()
    assert told(done, "sha256").split()[1][:12] in page
    (pipeline / "recipe.yaml").write_text(taken.replace("channels: [4, 8]", "channels: [4, 16]"))
    refused = door("train", pipeline, *common, "--dry-run")
    assert refused.code == 4
    assert "encoder.channels is [4, 16], was [4, 8]" in " ".join(refused.err.split())


def test_a_block_alone_is_pretrained_on_each_split(door: Callable[..., Said], pipeline: Path) -> None:
    done = door("train", pipeline, "--root", pipeline / "data", "--runs", pipeline / "runs", "--smoke")
    assert done.code == 0, done.err
    found = sorted(p.parent.parent.name for p in (pipeline / "runs").rglob("pretrained.safetensors"))
    assert found == ["fold0", "fold1"]


def test_what_the_door_refuses(door: Callable[..., Said], pipeline: Path) -> None:
    common = ("--root", pipeline / "data", "--runs", pipeline / "runs")
    (pipeline / "full").mkdir()
    (pipeline / "full" / "mine.txt").write_text("mine")
    kept = door("pretrain", pipeline, *common, "--out", pipeline / "full")
    assert (kept.code, (pipeline / "full" / "mine.txt").read_text()) == (8, "mine")
    (pipeline / "recipe.yaml").write_text(RECIPE)
    none = door("pretrain", pipeline, *common, "--out", pipeline / "out")
    assert none.code == 4
    assert "has no `pretraining` block" in none.err
    (pipeline / "recipe.yaml").write_text(RECIPE + PRETRAINING.replace("contrastive", "simclr"))
    still = door("pretrain", pipeline, *common, "--out", pipeline / "out")
    assert still.code == 4
    assert "without `augment`" in " ".join(still.err.split())
    assert not (pipeline / "out").exists()
