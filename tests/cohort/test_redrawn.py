"""Repeats of the division into folds, and folds that nothing can be learned on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.link import Cohort
from medmm.cohort.split import assign, check_folds, divide, redrawn
from medmm.errors import DataError
from medmm.train import plan


def cohort(small: Any, sick: Any, *, site: Any = lambda n: "n", **splits: object) -> Cohort:
    """Sixty subjects of whom those for whom ``sick`` is true are ill."""
    rows = [[f"{n:03d}", f"2024-03-{1 + n % 28:02d} 12:00:00", "50", "mf"[n % 2], site(n)] for n in range(60)]
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    small.write("labels.csv", ("patient_id", "ill"), [(f"{n:03d}", str(int(sick(n)))) for n in range(60)])
    small.spec["splits"] = splits
    return small.link()


def test_repeats_divide_the_same_training_subjects_anew(small: Any) -> None:
    linked = cohort(small, lambda n: n % 3 == 0, stratify=["ill"], held_out=0.2, folds=4)
    splits = divide(linked)
    found = redrawn(linked, splits, 3)
    training = {subject for subject, (split, _) in splits.of.items() if split == "train"}
    first = {subject: splits.of[subject][1] for subject in training}
    assert len(found) == 3
    for places in found:
        assert set(places) == training
        sizes = [sum(fold == k for fold in places.values()) for k in range(4)]
        assert max(sizes) - min(sizes) <= 1
        ill = [sum(fold == k and int(s) % 3 == 0 for s, fold in places.items()) for k in range(4)]
        assert max(ill) - min(ill) <= 1
        assert places != first
    assert found == redrawn(linked, splits, 3)
    assert redrawn(linked, splits, 0) == []


def test_repeats_keep_sites_whole_and_give_no_division_twice(small: Any) -> None:
    linked = _by_site(cohort(small, lambda n: n % 3 == 0, site=lambda n: f"s{n % 7}"), folds=3)
    splits = divide(linked)
    for places in redrawn(linked, splits, 4):
        for number in range(7):
            assert len({fold for subject, fold in places.items() if int(subject) % 7 == number}) == 1
        assert set(places.values()) == {0, 1, 2}
    linked = _by_site(cohort(small, lambda n: n % 5 == 0, site=lambda n: f"s{n % 3}"), folds=3)
    assert redrawn(linked, divide(linked), 5) == []  # three sites in three folds: one division


def _by_site(linked: Cohort, *, folds: int) -> Cohort:
    settings = linked.spec.splits.model_copy(update={"by": "site", "site": "site", "folds": folds})
    return replace(linked, spec=linked.spec.model_copy(update={"splits": settings}))


def test_too_few_events_for_the_folds_are_one_line(small: Any) -> None:
    linked = cohort(small, lambda n: n < 3, folds=5)
    with pytest.raises(DataError, match="3 training subjects of the rarer class for 5 folds") as told:
        check_folds(linked, divide(linked), "ill")
    assert "lower splits.folds to 3" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_site_with_one_class_is_one_line(small: Any) -> None:
    linked = _by_site(cohort(small, lambda n: n % 3 and n % 2, site=lambda n: f"s{n % 3}"), folds=3)
    splits = divide(linked)
    assign(linked, splits)
    with pytest.raises(DataError, match=r"one class only.*A site with one class must share a fold") as told:
        check_folds(linked, splits, "ill")
    assert "lower splits.folds" in str(told.value)
    assert "\n" not in str(told.value)


def test_folds_by_luck_of_one_class_are_told_to_be_stratified(small: Any) -> None:
    linked = cohort(small, lambda n: n < 8, folds=8)
    splits = divide(linked)
    thin = type(splits)(
        splits.seed, 8, {s: ("train", 0 if int(s) < 8 else place[1]) for s, place in splits.of.items()}
    )
    with pytest.raises(DataError, match=r"add ill to splits.stratify"):
        check_folds(linked, thin, "ill")


def test_a_run_takes_its_outer_folds_from_the_cohort(written: Path, tmp_path: Path) -> None:
    """By site: every site lies whole in one fold, of the first division and of any repeat."""
    shutil.copytree(written, tmp_path / "data")
    file = tmp_path / "data" / "cohort.yaml"
    cohort = yaml.safe_load(file.read_text())
    cohort["splits"] = {"by": "site", "site": "site", "folds": 2}
    file.write_text(yaml.safe_dump(cohort))
    recipe = {
        "name": "sites",
        "question": "?",
        "intended_use": "a test",
        "cohort": "data",
        "outcome": "deterioration",
        "modalities": {"records": {"kind": "records"}},
        "folds": {"repeats": 3},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    planned = plan(tmp_path, root=tmp_path / "data")
    sites = [patient.subgroups["site"] for patient in planned.patients]
    assert len(set(sites)) > 2
    for folds in (planned.folds, *planned.more):
        placed = set(zip(sites, folds.tolist(), strict=True))
        assert len(placed) == len(set(sites))
    assert planned.more
    assert "fewer than 50" in planned.notice
