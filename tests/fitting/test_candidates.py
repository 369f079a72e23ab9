from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmm.columns import FieldSpec, ResultSpec, Status, Value
from medmm.errors import FittingError
from medmm.evaluation.discrimination import auroc
from medmm.fitting.candidates import Problem, fit_split
from medmm.fitting.crossval import cross_validate, final_network, fits, repeat
from medmm.fitting.judgement import judge
from medmm.fitting.partition import deal
from medmm.fitting.predictions import Predictions
from medmm.modalities.biomarkers import Biomarkers
from medmm.modalities.records import Records
from medmm.recipe import Concat, Fitting, LateStack, Recipe, varied

PATIENTS = 150


def recipe(fusion: Concat | LateStack, **changes: object) -> Recipe:
    values = {
        "name": "small",
        "question": "?",
        "intended_use": "a test",
        "cohort": "x",
        "outcome": "ill",
        "modalities": {"records": {"kind": "records"}, "biomarkers": {"kind": "biomarkers"}},
        "fusion": fusion,
        "fitting": Fitting(epochs=15, learning_rate=1e-2),
        "comparison": {"resamples": 200},
    }
    return Recipe.model_validate(values | changes)


def problem(
    work: Path, fusion: Concat | LateStack, *, patients: int = PATIENTS, **changes: object
) -> Problem:
    """Two tables of one field each; the biomarker is missing for a quarter of the patients."""
    rng = np.random.default_rng(4)
    age, crp = rng.normal(60, 10, patients), rng.normal(5, 2, patients)
    labels = (rng.random(patients) < 1 / (1 + np.exp(-(age - 60) / 8 - (crp - 5)))).astype(float)
    absent = rng.random(patients) < 0.25
    asked = recipe(fusion, **changes)
    return Problem(
        recipe=asked,
        modalities={
            "records": Records(
                "records", Records.Settings(), {"age": FieldSpec(role="input", kind="number")}
            ),
            "biomarkers": Biomarkers(
                "biomarkers", Biomarkers.Settings(), {"crp": ResultSpec(role="input", code="1988-5")}
            ),
        },
        rows={
            "records": [{"age": Value(float(x), text=f"{x}")} for x in age],
            "biomarkers": [
                {"crp": Value(None, Status.MISSING) if gone else Value(float(x), text=f"{x}")}
                for x, gone in zip(crp, absent, strict=True)
            ],
        },
        images={},
        labels=labels,
        pseudonyms=[f"{i:016x}" for i in range(patients)],
        keys=[f"{i:04}" for i in range(patients)],
        work=work,
    )


@pytest.mark.parametrize("fusion", [Concat(), LateStack(inner_folds=3)], ids=["concat", "late_stack"])
def test_out_of_fold_logits_rank_and_are_absent_where_the_modality_is(tmp_path, fusion):
    given = problem(tmp_path, fusion)
    folds = deal(given.labels.astype(str).tolist(), given.keys, folds=3, seed=0)
    found = cross_validate(given, folds)
    assert set(found.logits) == {"records", "biomarkers", "fused", "trees", "logistic"} | (
        {"tables"} if isinstance(fusion, LateStack) else set()
    )
    present = given.fitted(np.arange(PATIENTS))[1].present
    assert np.isfinite(found.logits["fused"]).all()
    assert (np.isfinite(found.logits["biomarkers"]) == present[:, 1]).all()
    assert auroc(given.labels, found.logits["fused"], folds) > 0.7


def test_what_is_fitted_never_sees_the_test_fold(tmp_path):
    """Changing the test patients' labels and values changes nothing that was fitted."""
    one, other = problem(tmp_path / "a", Concat()), problem(tmp_path / "b", Concat())
    train, test = np.arange(0, 100), np.arange(100, PATIENTS)
    other.labels[test] = 1 - other.labels[test]
    for index in test:
        other.rows["records"][index]["age"] = Value(500.0, text="500")
    first, second = (fit_split(given, train, test, "fold0") for given in (one, other))
    assert first.modalities["records"].state() == second.modalities["records"].state()
    weights = second.networks["fused"].state_dict()
    assert all((value == weights[key]).all() for key, value in first.networks["fused"].state_dict().items())


def test_a_class_too_small_for_inner_folds_is_refused(tmp_path):
    given = problem(tmp_path, LateStack())
    given.labels[:] = 0
    given.labels[:6] = 1
    with pytest.raises(FittingError, match="late_stack needs at least 5"):
        fit_split(given, np.arange(PATIENTS), np.arange(0), "fold0")


@pytest.mark.parametrize("final", ["fold_ensemble", "refit"])
def test_the_final_network_scores_as_its_members_do(tmp_path, final):
    from medmm.fitting.final_inputs import prepared_inputs
    from medmm.fitting.loop import predict

    given = problem(tmp_path, Concat(), final_model=final)
    folds = deal(given.labels.astype(str).tolist(), given.keys, folds=3, seed=0)
    found = cross_validate(given, folds)
    whole = final_network(given, found)
    logits = predict(whole.network, prepared_inputs(given, whole), np.arange(10))
    if final == "refit":
        assert whole.members == 1
        return
    members = [
        predict(split.networks["fused"], given.fitted(np.flatnonzero(folds != fold))[1], np.arange(10))
        for fold, split in enumerate(found.splits)
    ]
    assert logits == pytest.approx(np.mean(members, axis=0), abs=1e-5)


def test_the_judgement_counts_everybody_and_asks_no_verdict_without_an_image(tmp_path):
    given = problem(tmp_path, Concat())
    folds = deal(given.labels.astype(str).tolist(), given.keys, folds=3, seed=0)
    found = cross_validate(given, folds)
    present = given.fitted(np.arange(PATIENTS))[1].present
    judged = judge(
        Predictions(given.recipe, found, given.labels, present, names=list(given.modalities), images=[])
    )
    assert judged.verdict is None
    assert judged.counts["fused"] == (PATIENTS, int(given.labels.sum()))
    assert sum(group.patients or 0 for group in judged.patterns) == PATIENTS
    assert set(judged.to_json()["out_of_fold"]) == set(found.logits)


def test_a_finished_run_is_not_fitted_twice(tmp_path):
    given = problem(tmp_path, Concat())
    folds = deal(given.labels.astype(str).tolist(), given.keys, folds=2, seed=0)
    first = cross_validate(given, folds)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("done.safetensors")}
    again = cross_validate(given, folds)
    assert len(times) == fits(given.recipe, tables=2, folds=2)
    assert times == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("done.safetensors")}
    assert again.logits["fused"].tolist() == first.logits["fused"].tolist()


def test_the_verdict_keeps_a_patient_whom_a_rival_cannot_score():
    from medmm.fitting.crossval import OutOfFold

    rng = np.random.default_rng(0)
    labels = np.tile([0.0, 1.0], 60)
    folds = np.arange(120) % 3
    image = labels + rng.normal(size=120)
    tables = rng.normal(size=120)
    tables[:30] = np.nan
    logits = {"ct": image, "fused": image, "tables": tables, "trees": tables, "logistic": tables}
    present = np.stack([np.ones(120, bool), np.isfinite(tables)], axis=1)
    judged = judge(
        Predictions(
            recipe(Concat()),
            OutOfFold(logits, folds, ()),
            labels,
            present,
            names=["ct", "records"],
            images=["ct"],
        )
    )
    assert judged.verdict is not None
    assert judged.verdict.patients == 120
    assert judged.verdict.word == "helps"


def test_where_each_fold_takes_its_own_fusion_every_model_is_of_all_folds(tmp_path):
    given = problem(
        tmp_path, Concat(), patients=60, comparison={"fusions": ["late_mean"]}, fitting={"epochs": 1}
    )
    other = replace(given, recipe=varied(given.recipe, {"fusion.kind": "late_mean"}))
    searched = replace(given, searched=lambda _, name: other if name == "fold0" else given)
    found = repeat(searched, np.arange(60) % 2, [np.arange(60) // 2 % 2])
    assert set(found.logits) == {"records", "biomarkers", "fused", "late_mean", "trees", "logistic"}
    for model in ("fused", "late_mean"):
        assert np.isfinite(found.repeated(model)).all()
