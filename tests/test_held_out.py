"""Who was held out is read from the run, and every look at them is counted."""

from __future__ import annotations

import csv
import json

import pytest

from medmm.bundle import load
from medmm.cohort.access import open_cohort
from medmm.cohort.split import load_splits
from medmm.cohort.wholes import HELD_OUT
from medmm.errors import DataError, OutputError
from medmm.held_out import open_held_out

pytestmark = pytest.mark.xdist_group("small")


def openings(small):
    file = small.run / "openings.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def held_out(small):
    return {
        subject
        for subject, (side, _) in load_splits(small.run / "splits.json").of.items()
        if side == HELD_OUT
    }


def opened(small):
    patients, opening = open_held_out(load(small.bundle), open_cohort(small.data, small.data))
    return {patient.subject_id for patient in patients}, opening


def changed(file, change):
    with file.open() as stream:
        rows = change(list(csv.DictReader(stream)))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_held_out_are_those_of_the_run_and_each_opening_is_noted(small_copy):
    found, first = opened(small_copy)
    assert found == held_out(small_copy)
    assert 5 < len(found) < 20
    assert (first, opened(small_copy)[1]) == (1, 2)
    noted = openings(small_copy)
    assert [line["bundle"] for line in noted] == [load(small_copy.bundle).sha256] * 2
    assert not found & {word for line in noted for word in line.values()}


def test_who_came_since_is_on_neither_side(small_copy):
    before, _ = opened(small_copy)
    for name in ("records.csv", "labels.csv"):
        file = small_copy.data / name
        changed(file, lambda rows: [*rows, *({**rows[i], "patient_id": f"9{i:05}"} for i in range(10))])
    assert opened(small_copy)[0] == before


def test_without_the_run_the_cohort_must_be_the_very_one(small_copy):
    before, _ = opened(small_copy)
    (small_copy.run / "splits.json").unlink()
    assert opened(small_copy)[0] == before
    changed(small_copy.data / "records.csv", lambda rows: [{**row, "age": "50"} for row in rows])
    with pytest.raises(DataError, match="nobody can tell who was held out"):
        opened(small_copy)
    assert len(openings(small_copy)) == 2  # a refused look is no look


def test_splits_that_were_edited_are_refused(small_copy):
    file = small_copy.run / "splits.json"
    file.write_text(file.read_text().replace(HELD_OUT, "train", 1))
    with pytest.raises(DataError, match="changed after it was written"):
        opened(small_copy)
    assert openings(small_copy) == []


def test_a_run_that_held_nobody_out_says_so(small_copy):
    file = small_copy.data / "cohort.yaml"
    assert "held_out: 0.2" in file.read_text()
    file.write_text(file.read_text().replace("held_out: 0.2", "held_out: 0.0"))
    splits = load_splits(small_copy.run / "splits.json")
    everybody = type(splits)(splits.seed, splits.folds, dict.fromkeys(splits.of, ("train", 0)))
    (small_copy.run / "splits.json").unlink()
    everybody.save(small_copy.run / "splits.json")
    with pytest.raises(DataError, match="held nobody out"):
        opened(small_copy)
    assert openings(small_copy) == []


def test_a_look_that_cannot_be_counted_is_not_taken(small_copy):
    (small_copy.run / "openings.jsonl").mkdir()
    with pytest.raises(OutputError, match="cannot be counted"):
        opened(small_copy)
