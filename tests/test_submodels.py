"""A bundle with submodels: who is scored by which, and the promises hold for each."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmm import bundle as bundles
from medmm import choosing
from medmm import train as training
from medmm.attribution.game import TOLERANCE
from medmm.attribution.image import integrated_gradients
from medmm.calibration import Platt
from medmm.cohort.access import open_cohort
from medmm.errors import BundleError
from medmm.explain.explainer import Explainer
from medmm.explain.images import image_evidence
from medmm.explain.patient import patient_page
from medmm.fitting.assemble import assemble
from medmm.fitting.crossval import repeat
from medmm.fitting.routing import Route, Routing
from medmm.outputs.table import from_json, read_scores, to_json, write_scores
from medmm.report.patient import render_patient
from medmm.sealing import seal

pytestmark = pytest.mark.xdist_group("small")

ALL, TABLES = ("ct", "records", "biomarkers"), ("records", "biomarkers")
SECOND = Platt(0.5, -1.0)


def chosen(names: tuple[str, ...], model: str, calibration: Platt | None) -> Route:
    return Route(names, 40, 20, model, {}, {}, None, calibration)


@pytest.fixture(scope="session")
def routed(once, written):
    """A run whose patients with everything are scored by `late_mean`, and those without a CT by `records`."""

    def make(folder: Path) -> None:
        from tests.conftest import RECIPE

        shutil.copytree(written, folder / "data")
        more = "\nfinal_model: fold_ensemble\ncomparison: {fusions: [late_mean]}\nrouting: never_worse\n"
        (folder / "recipe.yaml").write_text(RECIPE + more)
        planned = training.plan(folder, root=folder / "data", smoke=True)
        run = training.open_run(planned, folder / "runs")
        problem = assemble(
            planned.recipe, planned.cohort, planned.patients, work=run / "fits", cache=folder / "cache"
        )
        out_of_fold = repeat(problem, planned.folds, ())
        choice = choosing.choose(problem, out_of_fold, worst_finding=None)
        assert choice.evidence is not None
        assert not choice.routing.submodels  # two epochs of sixty patients: nothing is surely better
        routes = (
            chosen(ALL, "late_mean", Platt(1.0, 0.0)),
            chosen(TABLES, "records", SECOND),
            chosen(("records",), "fused", None),
        )
        forced = replace(choice.evidence, routing=Routing(routes, choice.routing.logits))
        told = {"run": run, "spec": planned.spec, "cohort_digest": planned.cohort.digest}
        seal(problem, out_of_fold, choice.judgements, chosen=replace(choice, evidence=forced), **told)

    return once("routed", make)


@pytest.fixture
def bundle(routed):
    return bundles.load(next(routed.glob("runs/*/bundle")))


@pytest.fixture
def explainer(bundle):
    return Explainer(bundle, {name: modality.declaration for name, modality in bundle.modalities.items()})


@pytest.fixture
def observations(routed, explainer):
    """Per route, some patients."""
    linked = open_cohort(routed / "data", routed / "data", outcomes=False)
    by_route = {}
    for seen in map(explainer.scorer.observe, linked.patients):
        if not explainer.scorer.refusal(seen):
            by_route.setdefault(explainer.scorer.route(seen).name, []).append(seen)
    return by_route


def test_an_encoder_is_written_where_it_is_first_used_and_nowhere_else(bundle):
    first, second = bundle.description.submodels
    assert (first.folder, second.folder) == (
        "submodels/ct+records+biomarkers",
        "submodels/records+biomarkers",
    )
    assert set(first.encoders.values()) == {first.folder}  # `concat` has encoders of its own
    assert second.encoders == {"ct": "", "records": first.folder, "biomarkers": ""}
    files = {file.relative_to(bundle.folder).as_posix() for file in bundle.folder.rglob("*.onnx")}
    assert {name for name in files if name.startswith(second.folder)} == {f"{second.folder}/fusion.onnx"}
    assert len(files) == 4 + 4 + 1


def test_the_pattern_decides_who_scores_and_the_score_says_so(routed, bundle, observations, explainer):
    assert set(observations) == {"ct+records+biomarkers", "records+biomarkers"} | (set(observations) & {""})
    assert min(map(len, observations.values())) > 0
    for name, seen in observations.items():
        found = explainer.scorer.score(seen[0].patient)
        assert found.submodel == name
        used = {modality for modality, word in found.modalities.items() if word == "used"}
        assert used == {"ct+records+biomarkers": set(ALL), "records+biomarkers": {"records"}}.get(name, used)
    tables = observations["records+biomarkers"][0]
    found = explainer.scorer.score(tables.patient)
    assert found.modalities["biomarkers"] == "not_in_submodel"
    outcome = found.outcomes["deterioration"]
    assert outcome.calibrated_logit == pytest.approx(SECOND.slope * outcome.logit + SECOND.intercept)


def test_what_a_submodel_does_not_look_at_changes_nothing(observations, explainer):
    seen = observations["records+biomarkers"][0]
    logit = explainer.scorer.logit(explainer.scorer.encode(seen))
    other = replace(seen, inputs={**seen.inputs, "biomarkers": seen.inputs["biomarkers"] + 3})
    assert explainer.scorer.logit(explainer.scorer.encode(other)) == logit
    changed = replace(seen, inputs={**seen.inputs, "records": seen.inputs["records"] + 3})
    assert explainer.scorer.logit(explainer.scorer.encode(changed)) != logit


def test_one_patient_scores_the_same_alone_in_a_batch_and_in_another_order(routed, bundle, door, tmp_path):
    data = routed / "data"
    arguments = ("score", bundle.folder, "--cohort", data, "--root", data)
    assert door(*arguments, "--out", tmp_path / "all.parquet").code == 0
    whole = {row.subject_id: row for row in read_scores(tmp_path / "all.parquet")}
    scored = [row for row in whole.values() if row.status == "scored"]
    assert {"ct+records+biomarkers", "records+biomarkers"} <= {row.submodel for row in scored}
    for name in ("ct+records+biomarkers", "records+biomarkers"):
        some = [row.subject_id for row in scored if row.submodel == name][:2]
        alone = [from_json(door(*arguments, "--patient", subject).out) for subject in some[::-1]]
        assert alone == [whole[row.subject_id] for row in alone]


def test_several_patients_are_calibrated_each_by_what_scored_them(explainer, observations):
    scorer = explainer.scorer
    some = [seen for of in observations.values() for seen in of[:2]]
    logits = np.array([scorer.logit(scorer.encode(seen)) for seen in some])
    routes = [scorer.route(seen) for seen in some]
    found = scorer.calibrated(explainer.bundle.tasks[0], logits, routes)
    alone = [scorer.score(seen.patient).outcomes["deterioration"].calibrated_logit for seen in some]
    assert found.tolist() == alone


def test_a_submodel_is_kept_in_every_kind_of_score_file(explainer, observations, tmp_path):
    score = explainer.scorer.score(observations["records+biomarkers"][0].patient)
    assert from_json(to_json(score)) == score
    for suffix in ("parquet", "csv", "jsonl"):
        file = write_scores([score], tmp_path / f"scores.{suffix}")
        assert read_scores(file) == [score]


@pytest.mark.parametrize("away", [False, True], ids=["population", "centroids"])
def test_attributions_add_up_and_what_is_not_looked_at_has_no_share(explainer, observations, away):
    for name, some in observations.items():
        for seen in some[:3]:
            route = explainer.scorer.route(seen)
            reference = explainer.centroids_of(route) if away else explainer.reference_of(route)
            assert (reference.kind == "centroids") == away
            parts = explainer.explain(seen, reference)
            logit = explainer.scorer.logit(explainer.scorer.encode(seen))
            for part in (parts.modalities, *parts.fields.values()):
                assert part.base + sum(part.values) == pytest.approx(logit, abs=TOLERANCE)
            shares = dict(zip(parts.modalities.names, parts.modalities.values, strict=True))
            if name == "records+biomarkers":
                assert (shares["ct"], shares["biomarkers"]) == pytest.approx((0, 0), abs=1e-12)
                assert shares["records"] != 0


def test_the_torch_networks_of_the_submodels_are_those_of_the_graphs(explainer, observations):
    for some in observations.values():
        seen = some[0]
        network = explainer.network_of(explainer.scorer.route(seen))
        present = np.array([name in seen.inputs for name in ALL])
        if "ct" in seen.inputs:
            found = integrated_gradients(network, seen.inputs, present, "ct")
            assert found.logit == pytest.approx(
                explainer.scorer.logit(explainer.scorer.encode(seen)), abs=TOLERANCE
            )
            assert image_evidence(explainer, seen, "ct").gate in ("passed", "withheld")
    route = explainer.scorer.routes[frozenset(TABLES)]
    assert explainer.gate("ct", route=route)["passed"] is False


def test_a_page_and_the_card_say_which_submodel_scored(explainer, observations, bundle):
    seen = observations["records+biomarkers"][0]
    page = render_patient(patient_page(explainer, seen.patient))
    assert "scored by `records`" in page
    assert "these modalities (records + biomarkers)" in page
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    assert "submodels for ct + records + biomarkers, records + biomarkers" in card
    assert "Promotion: the recipe has no rule" in card


@pytest.mark.parametrize("file", ["fusion.onnx", "calibration.json", "weights.safetensors"])
def test_a_changed_file_of_a_submodel_is_seen(routed, tmp_path, file):
    copy = tmp_path / "bundle"
    shutil.copytree(next(routed.glob("runs/*/bundle")), copy)
    place = copy / "submodels" / "records+biomarkers" / file
    place.write_bytes(place.read_bytes()[:-1] + b" ")
    with pytest.raises(BundleError, match="submodels/records"):
        bundles.load(copy)


def test_nothing_of_a_patient_travels_with_a_submodel(routed, bundle):
    linked = open_cohort(routed / "data", routed / "data")
    words = {p.subject_id for p in linked.patients if len(p.subject_id) > 4}
    words |= {p.pseudonym for p in linked.patients}
    for file in (path for path in (bundle.folder / "submodels").rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert not [word for word in words if word.encode() in content], file.name
    local = {path.name for path in (bundle.folder.parent / "local").iterdir()}
    assert {
        "population-records+biomarkers.safetensors",
        "population-ct+records+biomarkers.safetensors",
    } <= local


def test_a_submodel_that_takes_an_encoder_from_nowhere_is_refused(bundle, explainer):
    from medmm.scorer import Scorer

    first, second = bundle.description.submodels
    strange = second.model_copy(update={"encoders": second.encoders | {"records": "../elsewhere"}})
    odd = replace(bundle, description=bundle.description.model_copy(update={"submodels": (first, strange)}))
    with pytest.raises(BundleError, match="which is none"):
        Scorer(odd, {})
    assert json.loads((bundle.folder / "bundle.json").read_text())["schema_version"] == 4
