"""What a run leaves behind: what may travel holds no patient, and what stays is this user's alone."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from medmm import train as story
from medmm.attribution.reference import from_arrays
from medmm.bundle import load
from medmm.cohort.access import open_cohort
from medmm.cohort.wholes import HELD_OUT, TRAIN
from medmm.explain import explain_patients
from medmm.explain.explainer import Explainer
from medmm.sample import Absence
from medmm.scorer import Scorer

pytestmark = pytest.mark.xdist_group("small")


def mode(path):
    return path.stat().st_mode & 0o777


def patients(small, count):
    linked = open_cohort(small.data, small.data, outcomes=False)
    scorer = Scorer(load(small.bundle), linked.declarations)
    return [p for p in linked.patients if not scorer.refusal(scorer.observe(p))][:count]


def test_nothing_of_a_patient_travels(small_run):
    linked = open_cohort(small_run.data, small_run.data)
    words = {patient.subject_id for patient in linked.patients if len(patient.subject_id) > 4}
    words |= {patient.pseudonym for patient in linked.patients}
    words |= {str(small_run.data), str(small_run.folder)}
    for file in (path for path in small_run.bundle.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert not [word for word in words if word.encode() in content], file.name
    assert len(words) > 60


def test_what_stays_is_readable_by_this_user_alone(small_run, door, tmp_path):
    run = small_run.run
    assert mode(run) == mode(run / "local") == mode(run.parent) == mode(run.parent / "cache") == 0o700
    assert {mode(file) for file in (run / "local").iterdir()} == {0o600}
    assert mode(run / "splits.json") == 0o600
    for suffix in ("parquet", "csv", "jsonl"):
        place = tmp_path / f"scores.{suffix}"
        arguments = (small_run.bundle, "--cohort", small_run.data, "--root", small_run.data)
        some = [word for p in patients(small_run, 2) for word in ("--patient", p.subject_id)]
        assert door("score", *arguments, *some, "--out", place).code == 0
        assert mode(place) == 0o600
    page = explain_patients(
        small_run.bundle,
        small_run.data,
        [patients(small_run, 1)[0].subject_id],
        tmp_path,
        root=small_run.data,
    )[0]
    assert mode(page) == 0o600


def test_the_local_record_is_of_those_who_were_trained_on(small_run):
    record = json.loads((small_run.run / "local" / "training.json").read_text())
    assert len(record["pseudonyms"]) == load(small_run.bundle).description.trained_on
    assert {len(logits) for logits in record["logits"].values()} == {len(record["pseudonyms"])}
    whole = from_arrays(
        load_file(small_run.run / "local" / "population.safetensors"),
        load(small_run.bundle).description.modalities,
        "population",
    )
    assert whole.digest == load(small_run.bundle).description.reference_digest


def test_the_bundle_of_a_rehearsal_says_so(small_run):
    described = load(small_run.bundle).description
    assert described.intended_use == story.REHEARSAL
    assert story.REHEARSAL in (small_run.bundle / "MODEL_CARD.md").read_text()


def test_the_bundle_sees_in_a_patient_what_its_network_was_trained_on(small_run):
    learned = load_file(small_run.run / "local" / "population.safetensors")
    held = load(small_run.bundle).modalities
    cohort = open_cohort(small_run.data, small_run.data, outcomes=False)
    tables = [name for name in held if f"rows.{name}" in learned]
    assert set(tables) == {"records", "biomarkers"}
    for name in tables:
        rows = {
            held[name].transform(patient.sources[name]).tobytes()
            for patient in cohort.patients
            if not isinstance(patient.sources[name], Absence)
        }
        assert {row.tobytes() for row in learned[f"rows.{name}"]} <= rows


def test_whoever_has_no_label_is_counted_and_never_trained_on(small_copy):
    file = small_copy.data / "labels.csv"
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[::7]:
        row["deterioration"] = ""
    unknown = {row["patient_id"] for row in rows[::7]}
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    planned = story.plan(small_copy.folder, root=small_copy.data)
    flow = planned.cohort.flow.subjects
    sides = {name: [p for p in planned.cohort.patients if p.split == name] for name in (TRAIN, HELD_OUT)}
    without = [p for p in sides[TRAIN] if "deterioration" not in p.targets]
    assert without
    assert len(planned.patients) + len(without) + len(sides[HELD_OUT]) == flow.parts["kept"]
    assert not unknown & {patient.subject_id for patient in planned.patients}
    lines = story.rehearse(planned, small_copy.folder / "runs")
    positives = sum(patient.targets["deterioration"] for patient in planned.patients)
    assert f"training {len(planned.patients)} patients, {positives:.0f} positive, deterioration" in lines


def test_away_from_the_site_an_explanation_falls_back_to_centroids_and_says_so(small_copy, tmp_path):
    subject = patients(small_copy, 1)[0].subject_id
    asked = (small_copy.bundle, small_copy.data, [subject])
    here = explain_patients(*asked, tmp_path / "here", root=small_copy.data)[0].read_text()
    for file in (small_copy.run / "local").iterdir():
        file.unlink()
    away = explain_patients(*asked, tmp_path / "away", root=small_copy.data)[0].read_text()
    assert "centroid" not in here
    assert "centroid" in away
    bundle = load(small_copy.bundle)
    explainer = Explainer(bundle, {name: m.declaration for name, m in bundle.modalities.items()})
    assert explainer.reference.kind == "centroids"
    assert explainer.training is None
    bases = bundle.metrics["reference_bases"]["deterioration"]
    assert explainer.base_error == pytest.approx(abs(bases["centroids"] - bases["population"]))


@pytest.mark.parametrize("damage", ["cut", "of another run", "rubbish"])
def test_a_population_that_is_not_the_bundles_own_is_not_used(small_copy, damage):
    file = small_copy.run / "local" / "population.safetensors"
    content = file.read_bytes()
    if damage == "of another run":
        from safetensors.numpy import save_file

        arrays = load_file(file)
        save_file(
            {
                name: values + np.asarray(1, values.dtype) if values.dtype.kind == "f" else values
                for name, values in arrays.items()
            },
            file,
        )
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"rubbish")
    bundle = load(small_copy.bundle)
    explainer = Explainer(bundle, {name: m.declaration for name, m in bundle.modalities.items()})
    assert explainer.reference.kind == "centroids"
