"""The evidence on made predictions: what is measured on whom, and what promotes a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from medmm.evaluation.resampling import Estimate
from medmm.fitting.choosing import WITH_BOTH, WITH_IMAGE, Evidence, weigh
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.judgement import Judgement, judge
from medmm.fitting.predictions import Predictions
from medmm.fitting.promotion import decide
from medmm.recipe import Folds, Promotion, Recipe
from tests.fitting.made_recipe import recipe

COUNT = 200
NAMES, IMAGES = ["film", "records"], ["film"]


def made(seed: int = 0, gain: float = 1.0) -> tuple[OutOfFold, np.ndarray, np.ndarray]:
    """Two thirds have the film; the fused model knows both, each with its own noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(COUNT) % 4 == 0).astype(float)
    present = np.stack([np.arange(COUNT) % 3 > 0, np.ones(COUNT, bool)], axis=1)
    film, records = (labels + rng.normal(0, 1.2, COUNT) for _ in range(2))
    logits = {
        "film": np.where(present[:, 0], film, np.nan),
        "records": records,
        "tables": records,
        "trees": records + rng.normal(0, 0.5, COUNT),
        "fused": records + gain * np.where(present[:, 0], film, 0),
    }
    return OutOfFold(logits, np.arange(COUNT) // 4 % 5, ()), labels, present


def weighed(given: Recipe, seed: int = 0, gain: float = 1.0) -> tuple[Judgement, Evidence]:
    out_of_fold, labels, present = made(seed, gain)
    found = judge(Predictions(given, out_of_fold, labels, present, names=NAMES, images=IMAGES))
    return found, weigh(
        Predictions(given, out_of_fold, labels, present, names=NAMES, images=IMAGES), verdict=found.verdict
    )


def test_the_grid_has_every_pattern_and_every_model_that_scores_it() -> None:
    judgement, evidence = weighed(recipe())
    cells = {(cell.pattern, cell.model): cell for cell in evidence.cells}
    assert set(cells) == {("film + records", m) for m in ("film", "records", "tables", "trees", "fused")} | {
        ("records", m) for m in ("records", "tables", "trees", "fused")
    }
    both, tables = cells["film + records", "fused"], cells["records", "fused"]
    assert both.patients + tables.patients == COUNT
    assert both.events + tables.events == 50
    assert both.auroc.value > cells["film + records", "records"].auroc.value
    shown = {group.category: group for group in judgement.patterns}
    for pattern, group in shown.items():  # the same figures as the pattern table of the fused model
        assert cells[pattern, "fused"].auroc.value == pytest.approx(group.auroc.value)
        assert cells[pattern, "fused"].calibration.slope == group.agreement.slope
    assert both.expected_to_observed == pytest.approx(both.calibration.expected / both.calibration.observed)
    json.dumps(evidence.to_json(), allow_nan=False)


def test_a_pattern_of_few_is_withheld() -> None:
    out_of_fold, labels, present = made()
    present = present.copy()
    present[:, 1] = np.arange(COUNT) >= 9  # nine have neither or the film alone
    evidence = weigh(
        Predictions(recipe(), out_of_fold, labels, present, names=NAMES, images=IMAGES), verdict=None
    )
    few = [cell for cell in evidence.cells if cell.pattern in ("film", "nothing")]
    assert few
    assert all(cell.patients is None and cell.auroc is None and cell.calibration is None for cell in few)


def test_each_comparison_has_both_intervals_and_the_verdict_keeps_its_own() -> None:
    judgement, evidence = weighed(recipe())
    by = {(found.rival, found.asked_of): found for found in evidence.compared}
    assert {rival for rival, of in by if of == WITH_BOTH} == {"film", "records", "tables", "trees"}
    for rival, gain in judgement.verdict.differences.items():
        assert by[rival, WITH_IMAGE].gain == gain
        assert by[rival, WITH_IMAGE].delong.gain.value == pytest.approx(gain.value)
    for found in evidence.compared:
        width = found.gain.upper - found.gain.lower
        assert found.delong.gain.upper - found.delong.gain.lower == pytest.approx(width, rel=0.35, abs=0.02)
    assert by["film", WITH_BOTH].patients == 133


@pytest.mark.parametrize("threshold", [None, {"risk": 0.25}, {"sensitivity": 0.9}])
def test_net_benefit_is_taken_at_the_threshold(threshold: dict[str, float] | None) -> None:
    judgement, evidence = weighed(recipe(threshold=threshold))
    assert set(evidence.benefits) == {"film", "records", "tables", "trees", "treat all", "treat none"}
    assert evidence.benefits["treat none"].own == Estimate(0, 0, 0)
    assert evidence.risk == pytest.approx(judgement.threshold or 0.5, abs=0.05)
    if threshold == {"risk": 0.25}:
        assert evidence.benefits["treat all"].own.value == pytest.approx(0.25 - 0.75 / 3)
        known = judgement.calibrated
        labels = made()[1]
        positive = known >= np.log(0.25 / 0.75)
        counted = (positive & (labels == 1)).mean() - (positive & (labels == 0)).mean() / 3
        assert evidence.benefits["treat none"].fused.value == pytest.approx(counted)


RULES = {"not_worse_than_best_single": 0.02, "calibration_slope": [0.8, 1.25], "red_team": "look"}


def test_a_model_that_meets_every_rule_is_champion() -> None:
    judgement, evidence = weighed(recipe())
    rules = Promotion.model_validate(RULES)
    found = decide(rules, evidence, judgement.overall, singles=NAMES, worst_finding="look")
    assert found.passed, found.sentence()
    assert [check.rule for check in found.checks] == list(RULES)
    assert found.to_json()["alias"] == "champion"


@pytest.mark.parametrize(
    ("gain", "worst", "failed"),
    [
        (-1.0, "nothing", ["not_worse_than_best_single"]),
        (1.0, "leak", ["red_team"]),
        (1.0, "shortcut", ["red_team"]),
        (1.0, None, ["red_team"]),
    ],
)
def test_a_model_that_fails_one_rule_is_none(gain: float, worst: str | None, failed: list[str]) -> None:
    judgement, evidence = weighed(recipe(), gain=gain)
    rules = Promotion.model_validate(RULES | {"calibration_slope": [0, 9]})
    found = decide(rules, evidence, judgement.overall, singles=NAMES, worst_finding=worst)
    assert [check.rule for check in found.checks if not check.passed] == failed
    assert found.word == "candidate"
    assert failed[0] in found.sentence()


def test_a_slope_outside_its_bounds_fails() -> None:
    judgement, evidence = weighed(recipe())
    rules = Promotion.model_validate({"calibration_slope": [1.5, 2]})
    assert not decide(rules, evidence, judgement.overall, singles=NAMES, worst_finding=None).passed


@pytest.mark.parametrize("block", [{}, {"calibration_slope": [1.2, 0.8]}, {"red_team": "everything"}])
def test_a_promotion_that_says_nothing_is_refused(block: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        recipe(promotion=block)


def test_few_events_are_repeated_unless_the_recipe_says() -> None:
    assert Folds().count(49) == 3
    assert Folds().count(50) == 1
    assert Folds(repeats=1).count(5) == 1
    assert Folds(repeats=7).count(500) == 7
