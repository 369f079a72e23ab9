"""The held-out patients, measured: the figures are those of their scores, and every door counts its look."""

from __future__ import annotations

import csv
import re

import pytest

from medmm.cohort.split import load_splits
from medmm.cohort.wholes import HELD_OUT
from medmm.outputs.table import read_scores

pytestmark = pytest.mark.xdist_group("small")


def asked(small, *words):
    return (words[0], small.bundle, "--cohort", small.data, "--root", small.data, *words[1:])


def test_the_figures_are_those_of_the_held_out_scores(small_copy, door, tmp_path):
    done = door(*asked(small_copy, "evaluate"))
    assert done.code == 0, done.err
    of = load_splits(small_copy.run / "splits.json").of
    subjects = {subject for subject, (side, _) in of.items() if side == HELD_OUT}
    assert door(*asked(small_copy, "score", "--out", tmp_path / "scores.csv")).code == 0
    logits = {
        row.subject_id: row.outcomes["deterioration"].logit
        for row in read_scores(tmp_path / "scores.csv")
        if row.subject_id in subjects and row.status == "scored"
    }
    with (small_copy.data / "labels.csv").open() as stream:
        labels = {row["patient_id"]: row["deterioration"] == "1" for row in csv.DictReader(stream)}
    pairs = [(logits[a], logits[b]) for a in logits for b in logits if labels[a] and not labels[b]]
    area = sum((one > other) + 0.5 * (one == other) for one, other in pairs) / len(pairs)
    events = sum(labels[subject] for subject in logits)
    lines = done.out.splitlines()
    assert lines[0] == f"held out {len(subjects)} = {len(logits)} scored + 0 refused; {events} positive"
    assert float(re.search(r"auroc +([0-9.]+)", done.out)[1]) == pytest.approx(area, abs=0.005)
    assert "an indication, not a claim" in done.out
    assert lines[-1] == "this was opening 1 of the held-out patients by this bundle"


def test_every_door_to_the_held_out_counts(small_copy, door, tmp_path):
    page = door(*asked(small_copy, "explain", "--split", "held_out", "--out", tmp_path / "pages"))
    assert page.code == 0, page.err
    assert door(*asked(small_copy, "explain", "--folds", "--out", tmp_path / "pages")).code == 0
    done = door(*asked(small_copy, "evaluate"))
    assert done.out.splitlines()[-1].startswith("this was opening 2 ")


def test_held_out_patients_of_one_class_are_refused_in_one_line(small_copy, door):
    of = load_splits(small_copy.run / "splits.json").of
    file = small_copy.data / "labels.csv"
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if of.get(row["patient_id"], ("", 0))[0] == HELD_OUT:
            row["deterioration"] = "0"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = door(*asked(small_copy, "evaluate"))
    assert done.code == 5
    assert "one class" in done.err
    assert done.out == ""
