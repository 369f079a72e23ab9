"""Repeats of the cross-validation: one is what it was, many average, and no patient is counted twice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from medmm.evaluation.calibrate import cross_fitted
from medmm.evaluation.discrimination import auroc
from medmm.fitting.choosing import weigh
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.judgement import Judgement, judge
from medmm.fitting.predictions import Predictions
from medmm.fitting.repeats import notice, over_repeats
from tests.fitting.made_recipe import recipe as made_recipe

COUNT, NAMES, IMAGES = 120, ["film", "records"], ["film"]
LABELS = (np.arange(COUNT) % 3 == 0).astype(float)
PRESENT = np.stack([np.arange(COUNT) % 4 > 0, np.ones(COUNT, bool)], axis=1)


recipe = partial(made_recipe, comparison={"resamples": 400}, threshold={"sensitivity": 0.8})


def once(seed: int) -> OutOfFold:
    """Another division and other networks of the same patients."""
    signal = np.random.default_rng(0).normal(size=(2, COUNT)) + LABELS
    rng = np.random.default_rng(seed)
    film, records = signal + rng.normal(0, 0.5, (2, COUNT))
    logits = {
        "film": np.where(PRESENT[:, 0], film, np.nan),
        "records": records,
        "tables": records,
        "fused": records + np.where(PRESENT[:, 0], film, 0),
    }
    return OutOfFold(logits, rng.permutation(np.arange(COUNT) // 3 % 5), ())


def judged(found: OutOfFold) -> Judgement:
    first = judge(Predictions(recipe(), found, LABELS, PRESENT, names=NAMES, images=IMAGES))
    return over_repeats(first, Predictions(recipe(), found, LABELS, PRESENT, names=NAMES, images=IMAGES))


def test_one_cross_validation_is_left_as_it_was_judged() -> None:
    found = once(1)
    first = judge(Predictions(recipe(), found, LABELS, PRESENT, names=NAMES, images=IMAGES))
    assert judged(found).to_json() == first.to_json()


def test_the_same_repeat_again_changes_no_figure_and_no_interval() -> None:
    single, again = judged(once(1)), judged(replace(once(1), more=(once(1), once(1))))
    for model, measures in single.figures.items():
        for name, estimate in measures.items():
            other = again.figures[model][name]
            assert (other.value, other.lower, other.upper) == pytest.approx(
                (estimate.value, estimate.lower, estimate.upper), abs=1e-9
            ), (model, name)
    assert again.verdict.word == single.verdict.word
    for name, gain in single.verdict.differences.items():
        assert again.verdict.differences[name].lower == pytest.approx(gain.lower, abs=1e-9)
    assert again.calibration.slope == pytest.approx(single.calibration.slope)
    assert again.threshold == pytest.approx(single.threshold)
    for one, other in zip(single.patterns, again.patterns, strict=True):
        assert (one.category, one.patients, one.events) == (other.category, other.patients, other.events)
        assert one.auroc.lower == pytest.approx(other.auroc.lower, abs=1e-9)


def test_figures_are_the_mean_of_the_repeats() -> None:
    repeats = [once(seed) for seed in (1, 2, 3)]
    found = judged(replace(repeats[0], more=tuple(repeats[1:])))
    each = [auroc(LABELS, r.logits["fused"], r.folds) for r in repeats]
    assert found.figures["fused"]["auroc"].value == pytest.approx(np.mean(each), abs=1e-9)
    risks = [cross_fitted(r.logits["fused"], LABELS, r.folds) for r in repeats]
    np.testing.assert_allclose(found.calibrated, np.mean(risks, axis=0))
    image = PRESENT[:, 0]
    each = [auroc(LABELS[image], r.logits["film"][image], r.folds[image]) for r in repeats]
    assert found.verdict.aurocs["film"].value == pytest.approx(np.mean(each), abs=1e-9)


def test_ten_repeats_do_not_make_the_interval_of_ten_times_the_patients() -> None:
    widths = []
    for count in (1, 10):
        repeats = [once(seed) for seed in range(1, 1 + count)]
        found = judged(replace(repeats[0], more=tuple(repeats[1:]))).figures["fused"]["auroc"]
        widths.append(found.upper - found.lower)
    assert widths[1] > 0.75 * widths[0]


def test_the_evidence_is_of_all_repeats() -> None:
    repeats = replace(once(1), more=(once(2), once(3)))
    verdict = judged(repeats).verdict
    found = weigh(
        Predictions(recipe(), repeats, LABELS, PRESENT, names=NAMES, images=IMAGES), verdict=verdict
    )
    assert found.repeats == 3
    gains = {c.rival: c for c in found.compared if c.asked_of == "who have the image"}
    for name, gain in verdict.differences.items():
        assert gains[name].delong.gain.value == pytest.approx(gain.value, abs=1e-9)
        assert gains[name].patients == PRESENT[:, 0].sum()


def test_a_repeat_without_a_pair_leaves_the_verdict_open() -> None:
    """Where one repeat's folds part every event with the image from every non-event, nothing is claimed."""
    few = PRESENT.copy()
    few[:, 0] = np.isin(np.arange(COUNT), [0, 1, 3, 4, 6, 7])
    apart = replace(once(2), folds=np.where(few[:, 0], (LABELS == 1) * 1, once(2).folds))
    whole = {name: once(1).logits["records"] for name in ("film", "records", "tables", "fused")}
    first = OutOfFold(whole, np.where(few[:, 0], 0, once(1).folds), ())
    found = replace(first, more=(replace(apart, logits=whole),))
    one = judge(Predictions(recipe(), found, LABELS, few, names=NAMES, images=IMAGES))
    assert one.verdict.aurocs
    many = over_repeats(one, Predictions(recipe(), found, LABELS, few, names=NAMES, images=IMAGES))
    assert many.verdict.word == "cannot tell"
    assert not many.verdict.differences
    assert "no event can be compared" in many.verdict.sentence()
    weigh(Predictions(recipe(), found, LABELS, few, names=NAMES, images=IMAGES), verdict=many.verdict)


def test_few_events_are_said() -> None:
    assert notice(50, 1) == ""
    assert "22 patients" in notice(22, 1)
    assert "repeats: 3" in notice(22, 1)
    assert "mean of 3" in notice(22, 3)
