"""Several fusions in one comparison: shared fits, names, and bits that depend on nothing beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmm.errors import ConfigError, FittingError
from medmm.fitting.crossval import cross_validate, final_network, fits
from medmm.fitting.partition import deal
from medmm.recipe import Concat, LateMean, LateStack, Recipe, load_recipe
from tests.fitting.test_candidates import problem, recipe

ASKED = {"resamples": 200, "fusions": ["late_mean", "late_stack", "concat"]}
TEXT = """
name: small
question: Is it so?
intended_use: A test.
cohort: x
outcome: ill
modalities:
  ct: {kind: image}
  records: {kind: records}
"""


def refusal(tmp_path: Path, more: str) -> str:
    (tmp_path / "recipe.yaml").write_text(TEXT + more)
    with pytest.raises(ConfigError) as refused:
        load_recipe(tmp_path)
    return str(refused.value)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """One cross-validation of three fusions, and of each of them by itself."""
    found = {}
    for name, fusion in {
        "all": LateStack(inner_folds=2),
        "late_stack": LateStack(inner_folds=2),
        "late_mean": LateMean(),
        "concat": Concat(),
    }.items():
        work = tmp_path_factory.mktemp(name)
        given = problem(work, fusion, **({"comparison": ASKED} if name == "all" else {}))
        folds = deal(given.labels.astype(str).tolist(), given.keys, folds=2, seed=0)
        found[name] = (given, cross_validate(given, folds))
    return found


def test_a_fusion_is_the_same_to_the_bit_whoever_is_fitted_beside_it(compared):
    _, together = compared["all"]
    assert set(together.logits) == {
        *("records", "biomarkers", "fused", "tables", "trees", "logistic"),
        *("late_mean", "concat"),
    }
    for name, model in (("late_stack", "fused"), ("late_mean", "late_mean")):
        assert together.logits[model].tolist() == compared[name][1].logits["fused"].tolist()
    assert together.logits["records"].tolist() == compared["concat"][1].logits["records"].tolist()


def test_what_fusions_have_in_common_is_fitted_once(compared):
    given, together = compared["all"]
    fitted = {str(file.parent.relative_to(given.work)) for file in given.work.rglob("done.safetensors")}
    alone = {f"fold{fold}/{name}" for fold in (0, 1) for name in given.modalities}
    inner = {f"fold{fold}/inner{k}/{n}" for fold in (0, 1) for k in (0, 1) for n in given.modalities}
    assert fitted == alone | inner | {"fold0/concat", "fold1/concat"} == set(together.histories)
    assert fits(given.recipe, tables=2, folds=2) == len(fitted)
    each = sum(
        fits(compared[name][0].recipe, tables=2, folds=2) for name in ("late_stack", "late_mean", "concat")
    )
    assert each == len(fitted) + 8  # two modalities, two folds, twice more


def test_two_stacks_over_other_inner_folds_share_no_inner_fit(tmp_path):
    other = {"kind": "late_stack", "inner_folds": 3}
    given = problem(tmp_path, LateStack(inner_folds=2), patients=80, comparison={"fusions": [other]})
    found = cross_validate(given, np.arange(80) % 2)
    named = {str(file.parent.parent.relative_to(tmp_path)) for file in tmp_path.rglob("done.safetensors")}
    assert {f"fold0/inner{k}" for k in (0, 1)} | {f"fold0/inner1of{k}" for k in (0, 1, 2)} < named
    assert found.logits["late_stack_2"].tolist() != found.logits["fused"].tolist()


def test_a_refit_fits_what_it_ships_and_no_more(tmp_path):
    given = problem(
        tmp_path, Concat(), patients=80, final_model="refit", comparison={"fusions": ["late_mean"]}
    )
    found = cross_validate(given, np.arange(80) % 2)
    final_network(given, found)
    assert [file.parent.name for file in (tmp_path / "refit").rglob("done.safetensors")] == ["fused"]
    assert fits(given.recipe, tables=2, folds=2) == len(list(tmp_path.rglob("done.safetensors")))


def test_names_are_kinds_and_the_own_kind_is_the_fused_model():
    blocks = ["late_stack", "concat", {"kind": "concat", "auxiliary": 0.3}, "concat"]
    found = recipe(LateStack(inner_folds=3), comparison={"fusions": blocks})
    assert list(found.fusions) == ["fused", "concat", "concat_2"]
    assert found.fusions["fused"] == LateStack(inner_folds=3)
    again = Recipe.model_validate(found.model_dump(mode="json"))
    assert again.fusions == found.fusions


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("comparison: {fusions: [late_meen]}", "'late_mean'"),
        ("comparison: {fusions: [{kind: film, auxilary: 1}]}", "auxilary"),
        (
            "  concat: {kind: biomarkers}\ncomparison: {fusions: [late_mean, concat]}\nfusion: {kind: gated}",
            "'concat'",
        ),
        ("routing: best", "'never_worse'"),
    ],
)
def test_a_fusion_that_cannot_be_compared_is_refused_with_the_recipe(tmp_path, more, said):
    assert said in refusal(tmp_path, more)


def test_what_a_fusion_needs_is_asked_of_every_one_compared(tmp_path):
    tables = TEXT.replace("ct: {kind: image}", "results: {kind: biomarkers}")
    (tmp_path / "recipe.yaml").write_text(tables + "comparison: {fusions: [daft]}")
    with pytest.raises(ConfigError, match="`daft` needs a modality that gives a feature map"):
        load_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text(TEXT.replace("  ct: {kind: image}\n", "") + "routing: never_worse")
    with pytest.raises(ConfigError, match="`routing` chooses between networks of several modalities"):
        load_recipe(tmp_path)


def test_a_cohorts_nested_division_is_what_a_stack_is_fitted_on(tmp_path):
    folds = np.arange(150) % 2
    inner = np.stack([np.where(folds == outer, -1, np.arange(150) // 2 % 2) for outer in (0, 1)], axis=1)
    given = replace(problem(tmp_path, LateStack(inner_folds=3)), inner={"": inner})
    found = cross_validate(given, folds)
    assert {file.parent.parent.name for file in tmp_path.rglob("inner*/*/done.safetensors")} == {
        "inner0",
        "inner1",
    }
    assert np.isfinite(found.logits["fused"]).all()
    thin = replace(given, inner={"": np.where(inner < 0, -1, np.arange(150)[:, None] // 2 % 20)})
    with pytest.raises(FittingError, match=r"lower splits\.inner_folds"):
        cross_validate(replace(thin, work=tmp_path / "thin"), folds)
