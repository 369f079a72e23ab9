"""A shipped pipeline through the command line: trained as a smoke run, scored, explained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Said

Door = Callable[..., Said]


def trained(door: Door, pipeline: str, data: Path, runs: Path) -> Path:
    """Run a shipped pipeline as a smoke run; return its bundle."""
    done = door("train", REPOSITORY / "pipelines" / pipeline, "--root", data, "--runs", runs, "--smoke")
    assert done.code == 0, done.err
    bundle = next(runs.glob(f"{pipeline}-*")) / "bundle"
    metrics = json.loads((bundle / "metrics.json").read_text())["out_of_fold"]["fused"]
    said = re.search(r"deciding +accuracy (\S+) .* recall (\S+) .* F1 (\S+) ", " ".join(done.out.split()))
    assert said, done.out
    assert [float(figure) for figure in said.groups()] == [
        pytest.approx(metrics[name][0], abs=0.0051) for name in ("accuracy", "recall", "f1")
    ]
    page = (bundle.parent / "training.html").read_text()
    assert "Deciding at the threshold" in page
    assert all(f"{metrics[name][0]:.2f} (" in page for name in ("accuracy", "recall", "f1"))
    return bundle


def explained(door: Door, bundle: Path, data: Path, patient: str, out: Path) -> str:
    arguments = ("--cohort", data, "--root", data)
    scored = door("score", bundle, *arguments, "--patient", patient)
    assert scored.code == 0, scored.err
    done = door("explain", bundle, *arguments, "--patient", patient, "--out", out)
    assert done.code == 0, done.err
    return next(out.glob("*.html")).read_text()


def somebody(data: Path, table: str, column: int = 0) -> str:
    """Return the first patient of a table who has a radiograph and a CT, by the truth that was planted."""
    images = json.loads((data / "truth.json").read_text())["subjects"]
    rows = (line.split(",") for line in (data / table).read_text().splitlines()[1:])
    return next(row[column] for row in rows if len(images.get(row[column], {}).get("images", {})) == 2)
