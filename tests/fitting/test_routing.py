"""Who is scored by what: only what is surely better, judged by choices made without the patient's fold."""

from __future__ import annotations

import json
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest

from medmm.evaluation.discrimination import auroc
from medmm.evaluation.paired import delong_difference
from medmm.fitting.choosing import weigh
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.predictions import Predictions
from medmm.fitting.routing import PER_CLASS, ROUTED, Routing, route
from tests.fitting.made_recipe import recipe as made_recipe

NAMES = ["film", "records"]


recipe = partial(made_recipe, comparison={"resamples": 200, "fusions": ["late_mean"]}, routing="never_worse")


def made(gain: float, *, patients: int = 400, repeats: int = 1, events: float = 0.3):
    """Half have the film. There, ``late_mean`` sees the outcome by ``gain`` better than the fused model."""
    rng = np.random.default_rng(1)
    labels = (rng.random(patients) < events).astype(float)
    present = np.stack([np.arange(patients) % 2 == 0, np.ones(patients, bool)], axis=1)
    fused = labels + rng.normal(0, 1, (repeats, patients))
    film = np.where(present[:, 0], rng.normal(0, 1, (repeats, patients)), np.nan)
    other = fused + rng.normal(0, 0.3, (repeats, patients)) + gain * labels * present[:, 0]
    logits = {
        "film": film,
        "records": fused - 0.5 * labels,
        "tables": fused - 0.5 * labels,
        "trees": fused + 5 * labels,
        "fused": fused,
        "late_mean": other,
    }
    folds = np.stack([rng.permutation(np.arange(patients) % 4) for _ in range(repeats)])
    return logits, labels, folds, present


def found(gain: float, **more: object) -> tuple[Routing, dict[str, str]]:
    logits, labels, folds, present = made(gain, **more)
    routing = route(recipe(), logits, labels, folds, present, names=NAMES)
    return routing, {one.pattern: one.model for one in routing.routes}


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_network_that_is_surely_better_scores_its_patients_and_no_others(repeats):
    routing, models = found(2.0, repeats=repeats)
    assert models == {"film + records": "late_mean", "records": "fused"}
    submodel = routing.submodels[0]
    assert len(routing.submodels) == 1
    assert submodel.gains["late_mean"].lower > 0
    assert submodel.chosen == {"late_mean": 4 * repeats}
    assert submodel.gain.value > 0.1
    assert submodel.calibration.slope > 0
    logits, labels, folds, present = made(2.0, repeats=repeats)
    rows = present[:, 0]
    for own, of in zip(routing.logits, folds, strict=True):
        assert auroc(labels[rows], own[rows], of[rows]) > auroc(
            labels[rows], logits["fused"][0, rows], of[rows]
        )


def test_the_shipped_calibration_is_of_the_patterns_own_patients():
    from medmm.evaluation.calibrate import fit_platt

    routing, _ = found(2.0)
    logits, labels, _, present = made(2.0)
    rows = present[:, 0]
    assert routing.submodels[0].calibration == fit_platt(logits["late_mean"][0, rows], labels[rows] == 1)


def test_trees_and_whatever_a_pattern_lacks_are_never_asked():
    routing, _ = found(2.0)
    asked = {one.pattern: set(one.gains) for one in routing.routes}
    assert asked == {
        "film + records": {"late_mean", "tables", "film", "records"},
        "records": {"late_mean", "tables", "records"},
    }


def test_chance_alone_ships_nothing():
    """Candidates that are as good as the fused model: over many draws next to none is surely better."""
    shipped = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = (rng.random(200) < 0.4).astype(float)
        signal = labels + rng.normal(0, 1, 200)
        logits = {name: (signal + rng.normal(0, 1, 200))[None] for name in ("fused", "records", "tables")}
        present = np.stack([np.zeros(200, bool), np.ones(200, bool)], axis=1)
        routing = route(recipe(), logits, labels, np.arange(200)[None] % 4, present, names=NAMES)
        shipped += len(routing.submodels)
    assert shipped <= 3  # 2.5 % for each of two candidates would be 1.5


def test_of_many_candidates_on_many_patterns_luck_ships_nothing():
    """Nothing is better than the fused model; asked one by one, some of fifteen comparisons would seem so."""
    names = ["film", "records", "notes"]
    asked = made_recipe(
        modalities={"film": {"kind": "image"}, "records": {"kind": "records"}, "notes": {"kind": "records"}},
        comparison={"resamples": 200, "fusions": ["late_mean", "gated"]},
        routing="never_worse",
    )
    kinds = np.array([[True, True, True], [False, True, True], [False, True, False]])
    together, alone = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels, folds = (rng.random(300) < 0.4).astype(float), np.arange(300)[None] % 5
        present = kinds[rng.integers(0, 3, 300)]
        signal = labels + rng.normal(0, 1, 300)
        logits = {
            m: (signal + rng.normal(0, 1, 300))[None]
            for m in ("fused", "tables", "late_mean", "gated", "records")
        }
        for column, name in ((0, "film"), (2, "notes")):
            logits[name] = np.where(present[:, column], signal + rng.normal(0, 1, 300), np.nan)[None]
        routing = route(asked, logits, labels, folds, present, names=names)
        assert routing.comparisons == sum(len(one.gains) for one in routing.routes) == 15
        together += bool(routing.submodels)
        for one in routing.routes:
            rows = (present == [name in one.names for name in names]).all(axis=1)
            alone += any(
                delong_difference(
                    labels[rows], logits[m][:, rows], logits["fused"][:, rows], folds[:, rows]
                ).gain.lower
                > 0
                for m in one.gains
            )
    assert together <= 3  # at most 2.5 % of 40 runs are expected
    assert alone >= 8  # what an interval for each comparison alone would have shipped


def test_the_intervals_of_a_choice_are_for_all_comparisons_together():
    logits, labels, folds, present = made(0.4)
    routing = route(recipe(), logits, labels, folds, present, names=NAMES)
    rows, found = present[:, 0], routing.routes[0].gains["late_mean"]
    single = delong_difference(
        labels[rows], logits["late_mean"][:, rows], logits["fused"][:, rows], folds[:, rows]
    ).gain
    assert routing.comparisons == 7
    wide = NormalDist().inv_cdf(1 - 0.025 / 7) / NormalDist().inv_cdf(0.975)
    assert found.value == single.value
    assert found.upper - found.lower == pytest.approx(wide * (single.upper - single.lower))
    assert json.loads(json.dumps(routing.to_json()))["comparisons"] == 7


def test_what_routing_is_worth_never_sees_the_fold_it_is_judged_on():
    """A candidate that is right in one fold alone: chosen with it, and not chosen for it."""
    logits, labels, folds, present = made(0.0)
    lucky = (folds[0] == 0) & present[:, 0]
    logits["late_mean"] = logits["fused"] + 20 * labels * lucky
    routing = route(recipe(), logits, labels, folds, present, names=NAMES)
    one = routing.routes[0]
    assert one.pattern == "film + records"
    assert one.gains["late_mean"].value > 0.05
    assert one.gain.value == pytest.approx(0, abs=1e-9)  # in fold 0 the choice was the fused model


def test_too_few_patients_leave_the_fused_model():
    routing, models = found(3.0, patients=100, events=0.3)
    assert set(models.values()) == {"fused"}
    assert all(not one.gains and one.gain is None for one in routing.routes)
    assert f"fewer than {PER_CLASS}" in routing.routes[0].sentence()


def test_a_pattern_of_few_people_says_nothing_of_them():
    logits, labels, folds, present = made(0.0)
    present[:, 0] = np.arange(len(labels)) < 7
    logits["film"] = np.where(present[:, 0], 0.0, np.nan)[None]
    rare = route(recipe(), logits, labels, folds, present, names=NAMES).routes[-1]
    assert (rare.pattern, rare.patients, rare.events) == ("film + records", None, None)


def test_routed_is_a_model_of_the_evidence_and_the_fused_one_elsewhere():
    logits, labels, folds, present = made(2.0)
    known = OutOfFold({name: values[0] for name, values in logits.items()}, folds[0], ())
    evidence = weigh(
        Predictions(recipe(), known, labels, present, names=NAMES, images=["film"]), verdict=None
    )
    cells = {(cell.pattern, cell.model): cell for cell in evidence.cells}
    better, same = (cells[pattern, ROUTED].auroc.value for pattern in ("film + records", "records"))
    assert better > cells["film + records", "fused"].auroc.value
    assert same == pytest.approx(cells["records", "fused"].auroc.value)
    compared = {one.rival: one for one in evidence.compared}
    assert compared[ROUTED].gain.upper < 0  # the fused model against what routing makes of it
    assert ROUTED in evidence.benefits
    told = json.loads(json.dumps(evidence.to_json(), allow_nan=False))["routing"]["patterns"]
    assert [row["model"] for row in told] == ["late_mean", "fused"]
    plain = weigh(
        Predictions(recipe(routing="none"), known, labels, present, names=NAMES, images=["film"]),
        verdict=None,
    )
    assert plain.routing is None
    assert ROUTED not in {cell.model for cell in plain.cells}


def test_the_gain_that_is_reported_is_of_the_routed_logits():
    routing, _ = found(2.0)
    logits, labels, folds, present = made(2.0)
    rows = present[:, 0]
    expected = delong_difference(
        labels[rows], routing.logits[0, rows], logits["fused"][0, rows], folds[0, rows]
    )
    assert routing.routes[0].gain.value == pytest.approx(expected.gain.value, abs=0.005)


def test_the_page_and_the_card_say_who_is_scored_by_what():
    from medmm.report.cards import _chosen
    from medmm.report.choosing import choosing

    logits, labels, folds, present = made(2.0)
    known = OutOfFold({name: values[0] for name, values in logits.items()}, folds[0], ())
    asked = {"names": NAMES, "images": ["film"]}
    evidence = weigh(Predictions(recipe(), known, labels, present, **asked), verdict=None)
    page = choosing(evidence, None)
    marked = {(row.cell.pattern, row.cell.model) for row in page.rows if row.scores}
    assert page.routed
    assert marked == {("film + records", "late_mean"), ("records", "fused")}
    table = next(table for anchor, _, table in page.tables if anchor == "routing")
    assert [row[2].split(":")[0] for row in table.rows] == ["late_mean", "fused"]
    card = _chosen(
        {"submodels": [{"pattern": ("film", "records")}]}, evidence.to_json() | {"promotion": None}
    )
    assert "Routing: submodels for film + records." in card
    assert any("late_mean: surely better" in line for line in card)
    plain = weigh(Predictions(recipe(routing="none"), known, labels, present, **asked), verdict=None)
    assert not choosing(plain, None).routed
    assert not any(row.scores for row in choosing(plain, None).rows)
