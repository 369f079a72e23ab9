"""Whole subjects, stratified, and the same whatever the order."""

from __future__ import annotations

import json
import random
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmm.cohort.split import assign, divide, load_splits
from medmm.errors import DataError, OutputError


def _fill(small: Any, number: int, positive: int, *, order: int = 0) -> None:
    rows = [
        (f"{n:04d}", "2024-03-01 12:00", str(20 + n % 50), "m", "north" if n % 3 else "south")
        for n in range(number)
    ]
    labels = [(row[0], str(int(n < positive))) for n, row in enumerate(rows)]
    random.Random(order).shuffle(rows)
    random.Random(order + 1).shuffle(labels)
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    small.write("labels.csv", ("patient_id", "ill"), labels)
    small.results([])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(40, 80),
    positive=st.integers(10, 30),
    held_out=st.sampled_from([0.0, 0.2, 0.33]),
    folds=st.integers(2, 5),
    seed=st.integers(0, 3),
)
def test_everybody_is_placed_once_evenly_and_independently_of_the_order(
    small: Any, number: int, positive: int, held_out: float, folds: int, seed: int
) -> None:
    small.spec["splits"] = {"stratify": ["ill", "site"], "held_out": held_out, "folds": folds, "seed": seed}
    _fill(small, number, positive)
    cohort = small.link()
    splits = divide(cohort)
    assert set(splits.of) == {patient.subject_id for patient in cohort.patients}
    kinds = Counter(split for split, _ in splits.of.values())
    assert abs(kinds["held_out"] - held_out * number) <= 1
    sizes = Counter(fold for split, fold in splits.of.values() if split == "train")
    assert set(sizes) == set(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    ill = {patient.subject_id for patient in cohort.patients if patient.targets["ill"]}
    spread = Counter(
        fold for subject, (split, fold) in splits.of.items() if split == "train" and subject in ill
    )
    assert max(spread.values()) - min(spread[f] for f in range(folds)) <= 2
    _fill(small, number, positive, order=7)
    assert divide(small.link()) == splits


def test_another_seed_is_another_division(small: Any) -> None:
    _fill(small, 60, 20)
    first = divide(small.link())
    small.spec["splits"] = {"seed": 1}
    second = divide(small.link())
    assert first.of != second.of
    assert first.digest != second.digest


def test_the_file_is_private_and_says_when_it_was_changed(small: Any, tmp_path: Path) -> None:
    _fill(small, 30, 10)
    splits = divide(small.link())
    path = tmp_path / "splits.json"
    splits.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_splits(path) == splits
    body = json.loads(path.read_text())
    body["subjects"]["0000"][1] = (body["subjects"]["0000"][1] + 1) % 5
    path.write_text(json.dumps(body))
    with pytest.raises(DataError, match="changed after"):
        load_splits(path)
    with pytest.raises(OutputError, match="is there already"):
        splits.save(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="it does not say who") as refused:
        load_splits(path)
    assert "Error" not in str(refused.value)
    with pytest.raises(OutputError):
        splits.save(tmp_path / "absent" / "splits.json")


def test_assign_gives_every_patient_a_place_and_refuses_strangers(small: Any) -> None:
    _fill(small, 30, 10)
    cohort = small.link()
    splits = divide(cohort)
    placed = assign(cohort, splits)
    assert {p.subject_id: (p.split, p.fold) for p in placed.patients} == splits.of
    assert placed.digest == cohort.digest
    _fill(small, 31, 10)
    with pytest.raises(DataError, match="another cohort"):
        assign(small.link(), splits)


def test_one_class_is_refused(small: Any) -> None:
    _fill(small, 30, 0)
    with pytest.raises(DataError, match="30 labels of one class"):
        divide(small.link())
    _fill(small, 30, 3)
    small.spec["splits"] = {"stratify": ["ill"], "folds": 5}
    with pytest.raises(DataError, match="3 subjects for 5 folds"):
        divide(small.link())
