"""What ships, judged: the routed scores where submodels replace the fused network, each without its fold."""

from __future__ import annotations

import numpy as np
import pytest

from medmm.evaluation.calibrate import agreement
from medmm.evaluation.discrimination import auroc
from medmm.fitting.choosing import Evidence, weigh
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.judgement import Judgement, judge
from medmm.fitting.predictions import Predictions
from medmm.fitting.promotion import decide
from medmm.fitting.repeats import over_repeats
from medmm.fitting.routing import ROUTED
from medmm.fitting.shipping import as_shipped
from medmm.recipe import Promotion, Recipe
from tests.fitting.made_recipe import recipe

NAMES, IMAGES = ["film", "records"], ["film"]
PATIENTS = 400


def made(gain: float = 2.0, repeats: int = 1) -> tuple[OutOfFold, np.ndarray, np.ndarray]:
    """Half have the film. There the film alone is good, the fused network poor, and ``late_mean`` best."""
    rng = np.random.default_rng(4)
    labels = (rng.random(PATIENTS) < 0.3).astype(float)
    there = np.arange(PATIENTS) % 2 == 0
    rounds = []
    for _ in range(repeats):
        records = labels + rng.normal(0, 1, PATIENTS)
        film = np.where(there, 1.5 * labels + rng.normal(0, 1, PATIENTS), np.nan)
        fused = np.where(there, rng.normal(0, 1, PATIENTS) + 0.2 * labels, records)
        logits = {
            "film": film,
            "records": records,
            "tables": records,
            "trees": records + rng.normal(0, 0.3, PATIENTS),
            "fused": fused,
            "late_mean": np.where(there, records + np.nan_to_num(film) + (gain - 2) * labels, records),
        }
        rounds.append(OutOfFold(logits, rng.permutation(np.arange(PATIENTS) % 4), ()))
    first, *more = rounds
    present = np.stack([there, np.ones(PATIENTS, bool)], axis=1)
    return OutOfFold(first.logits, first.folds, (), tuple(more)), labels, present


def judged(
    given: Recipe, known: OutOfFold, labels: np.ndarray, present: np.ndarray
) -> tuple[Judgement, Evidence]:
    asked = {"names": NAMES, "images": IMAGES}
    fused = over_repeats(
        judge(Predictions(given, known, labels, present, **asked)),
        Predictions(given, known, labels, present, **asked),
    )
    evidence = weigh(Predictions(given, known, labels, present, **asked), verdict=fused.verdict)
    return as_shipped(fused, evidence.routing, Predictions(given, known, labels, present, **asked)), evidence


def asked(routing: str, **more: object) -> Recipe:
    return recipe(comparison={"resamples": 200, "fusions": ["late_mean"]}, routing=routing, **more)


RULES = Promotion.model_validate({"not_worse_than_best_single": 0.05, "calibration_slope": [0.5, 4]})


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_rules_of_promotion_are_held_against_what_ships(repeats: int) -> None:
    """The fused network alone fails them; the bundle that sends its patients elsewhere is champion."""
    decisions = {}
    for routing in ("none", "never_worse"):
        found, evidence = judged(asked(routing), *made(repeats=repeats))
        assert found.overall is not None
        decisions[routing] = decide(RULES, evidence, found.overall, singles=NAMES, worst_finding=None)
    alone, routed = decisions["none"], decisions["never_worse"]
    assert (alone.word, alone.model) == ("candidate", "fused")
    assert "not_worse_than_best_single" in alone.sentence()
    assert (routed.word, routed.model) == ("champion", ROUTED), routed.sentence()
    assert "over film" in routed.checks[0].found or "over records" in routed.checks[0].found
    assert routed.to_json()["model"] == ROUTED


def test_risks_patterns_and_threshold_are_of_what_ships() -> None:
    known, labels, present = made()
    given = asked("never_worse", threshold={"sensitivity": 0.9})
    found, evidence = judged(given, known, labels, present)
    plain, _ = judged(asked("none", threshold={"sensitivity": 0.9}), known, labels, present)
    routed = evidence.routing.logits[0]
    assert (found.model, plain.model) == (ROUTED, "fused")
    assert np.array_equal(found.calibrated, routed)
    assert found.overall.slope == agreement(labels, routed).slope
    risks = 1 / (1 + np.exp(-routed[labels == 1]))
    assert (risks >= found.threshold - 1e-9).mean() >= 0.9
    assert found.threshold != plain.threshold
    cells = {(cell.pattern, cell.model): cell.auroc for cell in evidence.cells}
    for group in found.patterns:
        assert group.auroc == cells[group.category, ROUTED]
    assert found.figures[ROUTED]["auroc"].value == pytest.approx(auroc(labels, routed, known.folds))
    assert found.counts[ROUTED] == (PATIENTS, int(labels.sum()))
    assert found.calibration == plain.calibration  # shipped for whom the fused network scores
    assert found.figures["fused"] == plain.figures["fused"]


def test_the_verdict_of_what_ships_is_about_those_whose_image_is_looked_at() -> None:
    known, labels, present = made()
    found, _ = judged(asked("never_worse"), known, labels, present)
    assert found.verdict.word != "helps"  # the fused network
    assert (found.shipped.word, found.shipped.model) == ("helps", ROUTED)
    assert found.shipped.patients == PATIENTS // 2
    assert found.shipped.differences["fused"].lower > 0
    assert "what ships (routed) has an AUROC of" in found.shipped.sentence()
    assert found.to_json()["verdict_of_shipped"]["word"] == "helps"
    better = known.logits["records"] + 3 * labels  # what has no image scores those who have one
    blind = OutOfFold({**known.logits, "records": better}, known.folds, ())
    found, evidence = judged(asked("never_worse"), blind, labels, present)
    assert evidence.routing.routes[0].model == "records"
    assert found.shipped is None


def test_a_choice_that_was_luck_does_not_flatter_what_ships() -> None:
    """``late_mean`` is right in one fold alone: chosen with it, judged without it."""
    known, labels, present = made()
    plain = known.logits["records"]
    lucky = (known.folds == 0) & present[:, 0]
    logits = {
        **known.logits,
        "fused": plain,
        "late_mean": plain + 20 * labels * lucky,
        "film": plain * present[:, 0],
    }
    logits["film"] = np.where(present[:, 0], np.random.default_rng(0).normal(size=PATIENTS), np.nan)
    found, evidence = judged(asked("never_worse"), OutOfFold(logits, known.folds, ()), labels, present)
    assert evidence.routing.routes[0].model == "late_mean"
    gain = found.figures[ROUTED]["auroc"].value - found.figures["fused"]["auroc"].value
    optimistic = np.where(present[:, 0], logits["late_mean"], logits["fused"])
    assert auroc(labels, optimistic, known.folds) - found.figures["fused"]["auroc"].value > 0.03
    assert gain == pytest.approx(0, abs=0.005)


def test_where_nothing_is_replaced_nothing_changes() -> None:
    known, labels, present = made()
    same = {**known.logits, "fused": known.logits["late_mean"]}
    never, evidence = judged(asked("never_worse"), OutOfFold(same, known.folds, ()), labels, present)
    none, _ = judged(asked("none"), OutOfFold(same, known.folds, ()), labels, present)
    assert not evidence.routing.submodels
    assert evidence.model == "fused"
    assert never.to_json() == none.to_json()
    assert {found.model for found in evidence.compared} == {"fused"}
