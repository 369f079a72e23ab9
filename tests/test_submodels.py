"""A bundle with submodels: who is scored by which, and the promises hold for each."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from medmm import bundle as bundles
from medmm.attribution.game import TOLERANCE
from medmm.attribution.image import integrated_gradients
from medmm.cohort.access import open_cohort
from medmm.errors import BundleError
from medmm.explain.explainer import Explainer
from medmm.explain.images import image_evidence
from medmm.explain.patient import patient_page
from medmm.outputs.table import from_json, read_scores, to_json, write_scores
from medmm.report.patient import render_patient
from tests.routed import ALL, SECOND, TABLES

pytestmark = pytest.mark.xdist_group("small")


@pytest.fixture
def bundle(routed):
    return bundles.load(routed.bundle)


@pytest.fixture
def explainer(bundle):
    return Explainer(bundle, {name: modality.declaration for name, modality in bundle.modalities.items()})


@pytest.fixture
def observations(routed, explainer):
    """Per route, some patients."""
    linked = open_cohort(routed.data, routed.data, outcomes=False)
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
    data = routed.data
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
    assert "Promotion: candidate only, by routed; " in card


@pytest.mark.parametrize("file", ["fusion.onnx", "calibration.json", "weights.safetensors"])
def test_a_changed_file_of_a_submodel_is_seen(routed, tmp_path, file):
    copy = tmp_path / "bundle"
    shutil.copytree(routed.bundle, copy)
    place = copy / "submodels" / "records+biomarkers" / file
    place.write_bytes(place.read_bytes()[:-1] + b" ")
    with pytest.raises(BundleError, match="submodels/records"):
        bundles.load(copy)


def test_nothing_of_a_patient_travels_with_a_submodel(routed, bundle):
    linked = open_cohort(routed.data, routed.data)
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
    assert json.loads((bundle.folder / "bundle.json").read_text())["schema_version"] == 7


def test_the_training_patients_are_judged_by_what_ships_and_the_pages_say_so(routed, bundle, door, tmp_path):
    """`explain --folds` gives the routed scores, out-of-fold, and the submodel that explains each patient."""
    metrics = bundle.metrics
    assert metrics["model"] == "routed"
    assert metrics["promotion"]["model"] == "routed"
    record = json.loads((routed.run / "local" / "training.json").read_text())
    assert record["model"] == "routed"
    assert record["calibrated"] == record["logits"]["routed"] != record["logits"]["fused"]
    arguments = ("--cohort", routed.data, "--root", routed.data, "--folds", "--out", tmp_path)
    done = door("explain", bundle.folder, *arguments)
    assert done.code == 0, done.err
    page = html.unescape(next(tmp_path.glob("*.html")).read_text())
    assert "out-of-fold scores of the training patients, routed" in page
    auroc, *_ = metrics["out_of_fold"]["routed"]["auroc"]
    tile = re.search(r"Discrimination \(AUROC\)</dt><dd><b>([^<]*)</b>", page)
    assert tile
    assert float(tile[1]) == pytest.approx(auroc, abs=0.0051)
    assert "Which network scores whom" in page
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", page.split("Which network scores whom")[1], re.S)
    told = [re.sub(r"<[^>]*>", "|", row) for row in rows[:3]]
    assert any("ct + records + biomarkers" in row and "late_mean" in row for row in told), told
    assert any(row.count("records") == 3 and "biomarkers" in row for row in told), (
        told
    )  # looks at records alone
    training = html.unescape((routed.run / "training.html").read_text())
    assert "What ships is `routed`: patients with ct + records + biomarkers by late_mean;" in training
    assert "What ships against each other model" in training
    assert "Held against these rules: routed, out-of-fold." in training
    assert "ships    What ships is `routed`" in (routed.folder / "told.txt").read_text()


def test_the_figures_of_the_fused_network_alone_are_not_taken_for_those_of_what_ships(
    bundle, explainer, observations
):
    """Sensitivity, pattern and threshold on a patient's page are of the routed scores."""
    measures = bundle.metrics["out_of_fold"]
    assert measures["routed"]["recall"] != measures["fused"]["recall"]
    for some in observations.values():
        page = patient_page(explainer, some[0].patient)
        assert page.risk.sensitivity.value == measures["routed"]["recall"][0]
        assert page.how_good is None or page.how_good.pattern in {
            g["name"] for g in bundle.metrics["patterns"]
        }
    shown = {group["name"]: group["auroc"] for group in bundle.metrics["patterns"] if group["auroc"]}
    cells = {
        c["pattern"]: c["auroc"]
        for c in bundle.metrics["availability"]
        if c["model"] == "routed" and c["auroc"]
    }
    assert shown == cells != {}
