"""``medmm pretrain`` and the run that takes up what it left, through the doors."""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from medmm.bundle import writing
from medmm.errors import ConfigError
from medmm.train import open_run, plan
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
    common = ("--root", pipeline / "data", "--runs", pipeline / "runs")
    minutes = []
    for epochs in (2, 10000):
        (pipeline / "recipe.yaml").write_text(RECIPE + PRETRAINING.replace("epochs: 2", f"epochs: {epochs}"))
        dry = door("train", pipeline, *common, "--dry-run")
        assert dry.code == 0, dry.err
        assert re.search(r"pretraining +\d+ patients, \d+ ms a step, 9 times", dry.out), dry.out
        minutes.append(int(re.search(r"at most (\d+) min", dry.out)[1]))
    assert minutes[1] > minutes[0]
    (pipeline / "recipe.yaml").write_text(RECIPE + PRETRAINING)
    done = door("train", pipeline, *common, "--smoke")
    assert done.code == 0, done.err
    found = sorted(p.parent.parent.name for p in (pipeline / "runs").rglob("pretrained.safetensors"))
    assert found == ["fold0", "fold1"]


def test_no_run_holds_out_whom_its_encoders_have_seen(door: Callable[..., Said], pipeline: Path) -> None:
    """With the list of who was pretrained on it is refused; without it, said that it cannot be known."""
    data, runs = pipeline / "data", pipeline / "runs"
    common = ("--root", data, "--runs", runs)
    done = door("pretrain", pipeline, *common, "--out", pipeline / "pretrained")
    assert done.code == 0, done.err
    listed = runs / "pretraining" / f"{told(done, 'sha256').split()[1]}.json"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    (pipeline / "recipe.yaml").write_text(RECIPE + PRETRAINING + "pretrained: pretrained\n")
    same = door("train", pipeline, *common, "--dry-run")
    assert (same.code, "held out here" in same.out) == (0, False)
    text = (data / "cohort.yaml").read_text()
    assert "seed: 0" in text
    (data / "cohort.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    refused = door("train", pipeline, *common, "--dry-run")
    assert refused.code == 4
    assert "patients held out here were pretrained on" in " ".join(refused.err.split())
    listed.unlink()
    doubtful = door("train", pipeline, *common, "--dry-run")
    assert (doubtful.code, "who is held out here may be among them" in doubtful.out) == (0, True)


def test_a_run_goes_on_with_the_encoders_it_began_with(door: Callable[..., Said], pipeline: Path) -> None:
    runs, out = pipeline / "runs", pipeline / "pretrained"
    done = door("pretrain", pipeline, "--root", pipeline / "data", "--runs", runs, "--out", out)
    assert done.code == 0, done.err
    (pipeline / "recipe.yaml").write_text(RECIPE + PRETRAINING + "pretrained: pretrained\n")
    planned = plan(pipeline, root=pipeline / "data", smoke=True)
    run = open_run(planned, runs)
    assert open_run(planned, runs, run) == run
    described = (out / "pretrained.json").read_text()
    weights = [(file.name, file.read_bytes()) for file in out.glob("*.safetensors")]
    with writing(out) as place:
        (place / "pretrained.json").write_text(described + "\n")
        for name, content in weights:
            (place / name).write_bytes(content)
    with pytest.raises(ConfigError, match="was of another folder of pretrained encoders"):
        open_run(planned, runs, run)


def test_pretraining_is_of_one_process(
    door: Callable[..., Said], pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = door("pretrain", pipeline, "--root", pipeline / "data", "--out", pipeline / "out")
    assert (refused.code, (pipeline / "out").exists()) == (4, False)
    assert "start it without torchrun" in refused.err


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
