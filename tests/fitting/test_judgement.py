"""When an image helps: planted where it does, absent where it carries nothing, and rarely by chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medmm.columns import FieldSpec, ImageSpec, Value
from medmm.evaluation.comparison import Verdict, verdict
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import OutOfFold, cross_validate
from medmm.fitting.inputs import Prepared
from medmm.fitting.judgement import judge
from medmm.fitting.partition import deal
from medmm.fitting.predictions import Predictions
from medmm.modalities.image import Image, ImageSettings
from medmm.modalities.records import Records
from medmm.recipe import Recipe

PATIENTS = 160


def problem(work: Path, *, seen: float) -> Problem:
    """A table that tells half of the risk; an image whose brightness tells ``seen`` of the other half."""
    rng = np.random.default_rng(11)
    age, hidden = rng.normal(size=PATIENTS), rng.normal(size=PATIENTS)
    labels = (rng.random(PATIENTS) < 1 / (1 + np.exp(-age - 2.5 * hidden))).astype(float)
    films = rng.normal(size=(PATIENTS, 1, 8, 8))
    films[:, :, 2:6, 2:6] += 3 * seen * hidden[:, None, None, None]
    recipe = Recipe.model_validate(
        {
            "name": "planted",
            "question": "?",
            "intended_use": "a test",
            "cohort": "x",
            "outcome": "ill",
            "modalities": {"film": {"kind": "image"}, "records": {"kind": "records"}},
            "fitting": {"epochs": 25, "learning_rate": 1e-2},
            "comparison": {"resamples": 400},
        }
    )
    declared = {"age": FieldSpec(role="input", kind="number")}
    settings = ImageSettings.model_validate({"shape": (8, 8), "encoder": {"channels": (16,)}})
    none = ("",) * PATIENTS
    return Problem(
        recipe=recipe,
        modalities={
            "film": Image("film", settings, ImageSpec(dir="x")),
            "records": Records("records", Records.Settings(), declared),
        },
        rows={"records": [{"age": Value(float(x), text=f"{x}")} for x in age]},
        images={"film": Prepared(films.astype(np.float16), np.arange(PATIENTS), none)},
        labels=labels,
        keys=[f"{i:04}" for i in range(PATIENTS)],
        pseudonyms=[f"{i:016x}" for i in range(PATIENTS)],
        work=work,
    )


def judged(given: Problem) -> Verdict:
    folds = deal(given.labels.astype(str).tolist(), given.keys, folds=2, seed=0)
    found = cross_validate(given, folds)
    present = given.fitted(np.arange(PATIENTS))[1].present
    names = list(given.modalities)
    verdict = judge(
        Predictions(given.recipe, found, given.labels, present, names=names, images=["film"])
    ).verdict
    assert verdict is not None
    return verdict


def test_an_image_that_carries_nothing_does_not_help(tmp_path):
    found = judged(problem(tmp_path, seen=0.0))
    assert found.word in ("does not help", "cannot tell")
    assert found.aurocs["film"].lower < 0.5
    assert found.aurocs["tables"].lower > 0.5


def test_an_image_that_carries_the_rest_helps(tmp_path):
    found = judged(problem(tmp_path, seen=1.0))
    assert found.word == "helps"
    assert found.differences["tables"].lower > 0


@pytest.mark.parametrize(("gain", "fewest", "most"), [(0.0, 0, 4), (0.8, 50, 60)])
def test_noise_is_rarely_called_help_and_a_gain_mostly_is(gain, fewest, most):
    """Of 60 cohorts; a 95 % interval lies above 0 by chance in 2.5 %, against two rivals at once in fewer."""
    words = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.tile([0.0, 1.0, 0.0], 50)
        folds = np.arange(150) // 3 % 3
        tables = labels + rng.normal(0, 1.2, 150)
        trees, fused = (tables + rng.normal(0, 0.5, 150) for _ in range(2))
        scores = {"tables": tables, "trees": trees, "fused": fused + gain * labels}
        words.append(verdict(labels, folds, scores, resamples=200, seed=seed).word)
    assert fewest <= words.count("helps") <= most


def test_decisions_that_are_alike_in_a_whole_fold_are_not_known_without_error():
    """A model that calls everybody of two folds positive: its recall still rests on a few patients."""
    folds = np.repeat([0, 1, 2, 3], 15)
    often, seldom = [1.0] * 9 + [0.0] * 6, [1.0] * 3 + [0.0] * 12
    labels = np.array([*often, *often, *seldom, *seldom])
    logits = np.where(folds < 2, 2.0, -2.0) + np.tile(np.linspace(0, 1e-6, 15), 4)
    made = OutOfFold({"fused": logits}, folds, ())
    recipe = Recipe.model_validate(
        {
            "name": "made",
            "question": "?",
            "intended_use": "a test",
            "cohort": "x",
            "outcome": "ill",
            "modalities": {"records": {"kind": "records"}},
            "threshold": {"risk": 0.3},
            "comparison": {"resamples": 400},
        }
    )
    judged = judge(Predictions(recipe, made, labels, np.ones((60, 1), bool), names=["records"], images=[]))
    for measure in ("recall", "accuracy", "specificity"):
        figure = judged.figures["fused"][measure]
        assert figure.upper - figure.lower > 0.1, (measure, figure)
