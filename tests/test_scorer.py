"""One patient through a bundle: the contract with the cohort, and a row for everybody with its reason."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from medmm.bundle import load
from medmm.cohort.access import open_cohort
from medmm.cohort.link import declarations
from medmm.cohort.spec import load_spec
from medmm.errors import ConfigError
from medmm.explain.cohort import cohort_page
from medmm.explain.explainer import Explainer
from medmm.explain.patient import patient_page
from medmm.outputs.table import from_json, read_scores
from medmm.report.cohort import render_cohort
from medmm.report.patient import render_patient
from medmm.scorer import Scorer, check_contract

pytestmark = pytest.mark.xdist_group("small")


def ids(small):
    with (small.data / "records.csv").open() as stream:
        return [row["patient_id"] for row in csv.DictReader(stream)]


def asked(small, *words):
    return (words[0], small.bundle, "--cohort", small.data, "--root", small.data, *words[1:])


def respelt(small, old, new):
    file = small.data / "cohort.yaml"
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("block", "field", "change", "said"),
    [
        ("biomarkers", "crp", {"unit": "mg/dL"}, r"biomarkers\.crp was trained with unit 'mg/L'.*'mg/dL'"),
        (
            "biomarkers",
            "crp",
            {"code": "30522-7"},
            r"biomarkers\.crp was trained with code '1988-5'.*'30522-7'",
        ),
        ("biomarkers", "crp", {"window_days": 30.0}, r"window_days 7\.0.*30\.0"),
        ("biomarkers", "crp", {"summary": "max"}, r"summary 'last'.*'max'"),
        ("records", "age", {"unit": "mo"}, r"records\.age was trained with unit 'a'.*'mo'"),
        ("records", "frailty", {"levels": ("frail", "fit")}, r"records\.frailty was trained with levels"),
        ("records", "sex", {"kind": "flag"}, r"records\.sex was trained with kind 'category'.*'flag'"),
    ],
)
def test_what_would_mean_something_else_is_refused(small_run, block, field, change, said):
    bundle = load(small_run.bundle)
    given = dict(declarations(load_spec(small_run.data)))
    check_contract(bundle, given)
    given[block] = {**given[block], field: given[block][field].model_copy(update=change)}
    with pytest.raises(ConfigError, match=said):
        check_contract(bundle, given)


def test_what_the_cohort_calls_it_or_where_it_lies_may_differ(small_run):
    bundle = load(small_run.bundle)
    given = dict(declarations(load_spec(small_run.data)))
    crp = given["biomarkers"]["crp"].model_copy(update={"label": "CRP", "code": None, "name": "CRP (serum)"})
    given["biomarkers"] = {**given["biomarkers"], "crp": crp}
    given["ct"] = given["ct"].model_copy(update={"dir": "elsewhere", "label": "CT"})
    check_contract(bundle, given)


def test_a_field_or_an_image_of_another_kind_is_refused(small_run):
    bundle = load(small_run.bundle)
    given = dict(declarations(load_spec(small_run.data)))
    without = {name: spec for name, spec in given["biomarkers"].items() if name != "crp"}
    with pytest.raises(ConfigError, match=r"uses biomarkers\.crp, which the cohort does not declare"):
        check_contract(bundle, {**given, "biomarkers": without})
    mapped = given["ct"].model_copy(update={"kind": "label_map", "labels": (1,)})
    with pytest.raises(ConfigError, match=r"image block ct was trained with kind 'intensity'.*'label_map'"):
        check_contract(bundle, {**given, "ct": mapped})


def test_a_broken_contract_is_one_line_and_nothing_is_written(small_copy, door, tmp_path):
    respelt(small_copy, "unit: mg/L, plausible: [0, 1500]", "unit: mg/dL, plausible: [0, 1500]")
    done = door(*asked(small_copy, "score", "--out", tmp_path / "scores.csv"))
    assert done.code == 4
    assert "biomarkers.crp was trained with unit 'mg/L', and this cohort declares 'mg/dL'" in done.err
    assert not (tmp_path / "scores.csv").exists()


def test_scores_that_are_there_stay_unless_asked_otherwise(small_run, door, tmp_path):
    place = tmp_path / "scores.jsonl"
    place.write_text("kept")
    one = asked(small_run, "score", "--patient", ids(small_run)[0], "--out", place)
    refused = door(*one)
    assert refused.code == 8
    assert "is there already; name a new file, or replace it with --overwrite" in " ".join(
        refused.err.split()
    )
    assert place.read_text() == "kept"
    assert door(*one, "--overwrite").code == 0
    assert len(read_scores(place)) == 1
    (tmp_path / "folder.csv").mkdir()
    assert "it is a folder; name a file" in door(*one[:-1], tmp_path / "folder.csv").err


def test_everybody_has_a_row_and_whoever_is_left_out_has_the_reason(small_copy, door, tmp_path):
    respelt(small_copy, "never_tables:", "exclusions: {seventy: {field: age, above: 70}}\nnever_tables:")
    respelt(
        small_copy,
        "choose: nearest, kind: intensity, required: false, label: Chest CT",
        "choose: nearest, kind: intensity, required: true, label: Chest CT",
    )
    done = door(*asked(small_copy, "score", "--out", tmp_path / "scores.jsonl"))
    assert done.code == 0, done.err
    rows = {row.subject_id: row for row in read_scores(tmp_path / "scores.jsonl")}
    assert set(ids(small_copy)) <= set(rows)
    with (small_copy.data / "records.csv").open() as stream:
        old = {row["patient_id"] for row in csv.DictReader(stream) if float(row["age"] or 0) > 70}
    assert old
    assert {rows[subject].reason for subject in old} == {"seventy"}
    reasons = {row.reason for row in rows.values() if row.status == "refused"}
    assert all(reasons)
    assert {"seventy", "not_in_subjects"} <= reasons
    assert all(not row.outcomes for row in rows.values() if row.status == "refused")
    assert all(
        row.outcomes["deterioration"].probability > 0 for row in rows.values() if row.status == "scored"
    )


def test_a_required_image_that_is_missing_is_the_reason(small_run):
    bundle = load(small_run.bundle)
    modalities = dict(bundle.modalities)
    ct = modalities["ct"]
    modalities["ct"] = type(ct)("ct", ct.settings, ct.declaration.model_copy(update={"required": True}))
    linked = open_cohort(small_run.data, small_run.data, outcomes=False)
    scorer = Scorer(replace(bundle, modalities=modalities), linked.declarations)
    reasons = {scorer.score(patient).reason for patient in linked.patients}
    assert "" in reasons
    assert any(reason.startswith("ct is required: ") for reason in reasons)


def test_a_row_that_cannot_mean_anything_is_absent_as_invalid(small_run):
    bundle = load(small_run.bundle)
    linked = open_cohort(small_run.data, small_run.data, outcomes=False, subjects=ids(small_run)[:1])
    patient = linked.patients[0]
    torn = {name: value for name, value in patient.sources["records"].items() if name != "age"}
    scorer = Scorer(bundle, linked.declarations)
    found = scorer.score(replace(patient, sources={**patient.sources, "records": torn}))
    assert found.status == "scored"
    assert found.modalities["records"] == "invalid"
    assert scorer.score(patient).modalities["records"] == "used"
    nothing = scorer.score(replace(patient, sources={"records": torn}))
    assert (nothing.status, nothing.reason) == ("refused", "no_data")
    assert nothing.modalities == {"ct": "not_in_cohort", "records": "invalid", "biomarkers": "not_in_cohort"}


def test_ids_from_standard_input(small_run, door):
    subjects = ids(small_run)[:2]
    done = door(*asked(small_run, "score", "--patient", "-"), given=f"{subjects[1]}\n\n  {subjects[0]}  \n")
    assert done.code == 0, done.err
    rows = [from_json(line) for line in done.out.splitlines()]
    assert [row.subject_id for row in rows] == sorted(subjects)
    assert all(row.status == "scored" for row in rows)
    empty = door(*asked(small_run, "score", "--patient", "-"), given="\n")
    assert empty.code == 2
    assert "there was none" in " ".join(empty.err.split())


def test_an_id_that_nobody_has_or_that_is_no_text(small_run, door):
    done = door(*asked(small_run, "score", "--patient", "nobody"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["reason"] == "not_in_any_source"
    bytes_of_latin1 = "Jos\udce9"
    refused = door(*asked(small_run, "score", "--patient", bytes_of_latin1))
    assert refused.code == 5, refused.err
    assert "Jos" not in refused.err


def test_a_patient_who_was_trained_on_is_told_apart(small_run):
    linked = open_cohort(small_run.data, small_run.data, outcomes=False)
    scorer = Scorer(load(small_run.bundle), linked.declarations)
    record = json.loads((small_run.run / "local" / "training.json").read_text())
    trained = {patient.pseudonym for patient in linked.patients if scorer.trained(patient)}
    assert trained == set(record["pseudonyms"])
    assert 0 < len(trained) < len(linked.patients)


@pytest.mark.parametrize("threshold", [1.0, 0.0])
def test_a_threshold_at_certainty_decides_and_is_drawn(small_run, threshold):
    bundle = load(small_run.bundle)
    certain = replace(bundle, description=bundle.description.model_copy(update={"threshold": threshold}))
    linked = open_cohort(small_run.data, small_run.data)
    explainer = Explainer(certain, linked.declarations)
    decision = "negative" if threshold else "positive"
    for patient in linked.patients[:3]:
        assert explainer.scorer.score(patient).outcomes["deterioration"].decision == decision
    assert explainer.scorer.outcome(1e6).decision == "positive"  # a risk of 1 reaches a threshold of 1
    assert "deterioration" in render_patient(patient_page(explainer, linked.patients[0])).lower()
    page = cohort_page(explainer, linked, held_out=False)
    assert page.chosen_threshold == threshold
    assert "<html" in render_cohort(page)
