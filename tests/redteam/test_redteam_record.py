"""What a run keeps about its cohort, in its folder and in the tracking store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medmm import tracking
from medmm.cohort.split import assign, divide
from medmm.redteam.attack import open_for_attack
from medmm.redteam.record import record


def test_a_run_keeps_both_and_tracks_them_without_pseudonyms(small: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("weight", "height", "creatinine", "sodium")
    rows = [
        [
            f"{n:03d}",
            "2024-03-01 12:00",
            f"{rng.normal(60, 12):.1f}",
            "mf"[n % 2],
            "x",
            *map(str, rng.normal(0, 9, 4)),
        ]
        for n in range(60)
    ]
    for n in range(6):
        rows[30 + n][2:] = rows[n][2:]
    for name in names:
        small.spec["records"]["fields"][name] = {"role": "input", "kind": "number"}
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site", *names), rows)
    small.write("labels.csv", ("patient_id", "ill"), [(f"{n:03d}", str(n % 2)) for n in range(60)])
    cohort = open_for_attack(small.load(), small.root)
    splits = divide(cohort)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    uri = tracking.store(tmp_path / "runs")
    with tracking.tracked("small", "one", uri=uri, run_id=None) as tracked:
        record(tracked, assign(cohort, splits), run, small.root, ["ill"], splits)
    assert {file.name for file in run.iterdir()} == {
        "table1.html", "table1.csv", "red-team.html", "red-team.json",
    }  # fmt: skip
    pseudonyms = [patient.pseudonym for patient in cohort.patients]
    kept = {file.name: file.read_text() for file in tmp_path.rglob("red-team.json") if file.parent != run}
    kept |= {file.name: file.read_text() for file in tmp_path.rglob("table1.csv") if file.parent != run}
    assert set(kept) == {"red-team.json", "table1.csv"}
    assert any(name in (run / "red-team.json").read_text() for name in pseudonyms)
    assert not any(name in text for name in pseudonyms for text in kept.values())
