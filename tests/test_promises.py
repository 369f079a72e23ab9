"""The five promises of the design, each on the demo's own run: real DICOM, real tables, the real CLI."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medmm import bundle as bundles
from medmm import train as training
from medmm.attribution.game import TOLERANCE
from medmm.cohort.access import open_cohort
from medmm.explain.explainer import Explainer
from medmm.explain.images import image_evidence
from medmm.fitting.assemble import assemble
from medmm.fitting.crossval import cross_validate
from medmm.fitting.judgement import judge
from medmm.fitting.predictions import Predictions
from medmm.outputs.table import read_scores
from medmm.sample import Score
from medmm.score import score
from medmm.sealing import seal

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.slow]


@dataclass(frozen=True)
class Demo:
    folder: Path
    printed: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def bundle(self) -> Path:
        return next((self.folder / "runs").glob("*/bundle"))


@pytest.fixture(scope="session")
def demo(once: Callable[[str, Callable[[Path], None]], Path]) -> Demo:
    """The main job on the embedded cohort, run once as a user would."""

    def make(folder: Path) -> None:
        done = medmm("demo", "--out", folder / "demo")
        assert done.returncode == 0, done.stderr
        (folder / "printed.txt").write_text(done.stdout + done.stderr)

    folder = once("demo", make)
    return Demo(folder / "demo", (folder / "printed.txt").read_text())


def medmm(*arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medmm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=given, check=False)


def scored_alone(demo: Demo, subject: str, data: Path | None = None) -> str:
    data = data or demo.data
    done = medmm("score", demo.bundle, "--cohort", data, "--root", data, "--patient", subject)
    assert done.returncode == 0, done.stderr
    return done.stdout


def subjects(demo: Demo, count: int) -> list[str]:
    with (demo.data / "records.csv").open() as file:
        return sorted(row["patient_id"] for row in csv.DictReader(file))[:count]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def told(row: Score) -> tuple[object, ...]:
    """What a score says of a patient; why something is absent may tell that there is something later."""
    used = tuple(name for name, word in row.modalities.items() if word == "used")
    return (
        row.subject_id,
        row.status,
        dict(row.outcomes),
        used,
        dict(row.as_of_days),
        row.undated,
        row.warnings,
        row.submodel,
    )


def change_later_images(folder: Path, moments: dict[str, str]) -> tuple[int, int]:
    """Blacken every image of after its patient's moment, and add a black copy of the others a year later."""
    changed = added = 0
    for file in [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]:
        image = pydicom.dcmread(file)
        moment = re.sub("[^0-9]", "", moments.get(str(image.PatientID), "0"))
        taken = f"{image.AcquisitionDate}{image.AcquisitionTime}"
        if image.file_meta.TransferSyntaxUID.is_compressed or moment == "0":
            continue
        image.PixelData = bytes(len(image.PixelData))
        if taken > moment:
            changed += 1
            image.save_as(file)
        elif changed + added < 400:
            added += 1
            for word in ("Study", "Series", "Acquisition", "Content"):
                setattr(image, f"{word}Date", f"{int(str(image.StudyDate)[:4]) + 1}1231")
            for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
                if uid in image:
                    setattr(image, uid, f"{image[uid].value}.9"[-64:].lstrip("."))
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.save_as(file.with_name(f"later-{file.name}"))
    return changed, added


def test_promise_1_every_patient_and_file_is_accounted_for(demo):
    accounts = re.findall(r"(subjects|files|results|notes) +(\d+) = ([^\n;]+)", demo.printed)
    assert {name for name, _, _ in accounts} == {"subjects", "files", "results", "notes"}
    for name, total, parts in accounts:
        assert sum(map(int, re.findall(r"(\d+) ", parts + " "))) == int(total), name
    on_disk = sum(path.is_file() for path in (demo.data / "dicom").rglob("*"))
    totals = {name: int(total) for name, total, _ in accounts}
    assert totals["files"] == on_disk
    rows = read_scores(demo.folder / "scores.parquet")
    assert len(rows) == totals["subjects"] > len(subjects(demo, 10**6))
    assert all(row.status == "scored" or row.reason for row in rows)


def test_promise_1_every_patient_of_a_bundle_with_submodels_is_accounted_for(routed):
    """By what scored whom, and each modality of each: used, not looked at, or absent for a reason."""
    rows = score(routed.bundle, routed.data, root=routed.data)
    linked = open_cohort(routed.data, routed.data, outcomes=False)
    for account in linked.flow.accounts:
        assert sum(account.parts.values()) == account.total, account.name
    on_disk = sum(path.is_file() for path in (routed.data / "dicom").rglob("*"))
    assert linked.flow.files.total == on_disk
    assert len({row.subject_id for row in rows}) == len(rows) == linked.flow.subjects.total
    kept = {patient.subject_id for patient in linked.patients}
    assert kept < {row.subject_id for row in rows}
    bundle = bundles.load(routed.bundle)
    shipped = {part.name: part for part in bundle.description.submodels}
    scored = [row for row in rows if row.status == "scored"]
    by = {name: sum(row.submodel == name for row in scored) for name in ("", *shipped)}
    assert sum(by.values()) + sum(row.status == "refused" for row in rows) == len(rows)
    assert min(by[name] for name in shipped) > 0
    for row in rows:
        assert row.status == "scored" or row.reason
        if row.subject_id in kept:
            assert set(row.modalities) == set(bundle.description.modalities)
            assert all(row.modalities.values())
        there = {name for name, word in row.modalities.items() if word in ("used", "not_in_submodel")}
        if row.submodel:
            part = shipped[row.submodel]
            assert there == set(part.pattern)
            assert {n for n, word in row.modalities.items() if word == "used"} == set(part.uses)


def test_promise_2_nothing_later_reaches_a_score(demo, tmp_path):
    chosen = subjects(demo, 3)
    before = [scored_alone(demo, subject) for subject in chosen]
    later = tmp_path / "later"
    shutil.copytree(demo.data, later)
    with (demo.data / "records.csv").open() as file:
        moments = {row["patient_id"]: row["assessed_at"] for row in csv.DictReader(file)}
    with (later / "biomarkers.csv").open() as file:
        reader = csv.DictReader(file)
        fields, rows = list(reader.fieldnames or []), list(reader)
    changed = 0
    for row in rows:
        moment = moments.get(row["patient_id"])
        if row["collected_at"] and moment and row["collected_at"] > moment:
            row["value"], changed = "999", changed + 1
    assert {row["patient_id"] for row in rows if row["value"] == "999"} & set(chosen)
    extra = [dict(row, value="998", collected_at="2099-01-01T00:00:00", available_at="") for row in rows[:50]]
    with (later / "biomarkers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows + extra)
    assert changed > 100
    assert [scored_alone(demo, subject, later) for subject in chosen] == before


@pytest.mark.parametrize("named", ["small_run", "routed"])
def test_promise_2_whatever_is_later_may_change_and_no_score_does(named, request, tmp_path):
    """Images, results known later, notes and follow-up: changed and added after the moment, bit for bit."""
    run = request.getfixturevalue(named)
    before = score(run.bundle, run.data, root=run.data)
    assert (len({row.submodel for row in before}) > 1) == (named == "routed")
    later = tmp_path / "later"
    shutil.copytree(run.data, later)
    moments = {row["patient_id"]: row["assessed_at"] for row in rows_of(later / "records.csv")}
    results = rows_of(later / "biomarkers.csv")
    in_time, after = [], 0
    for row in results:
        moment = moments.get(row["patient_id"], "9999")
        known_at = max(row["collected_at"], row["available_at"])
        if row["collected_at"] and known_at > moment:
            in_time.append(row["collected_at"] <= moment)
            row["value"], after = "999", after + 1
    assert after > 30
    assert any(in_time)  # drawn before, reported after
    write_rows(
        later / "biomarkers.csv", results + [dict(row, collected_at="2099-01-01") for row in results[:50]]
    )
    write_rows(
        later / "notes.csv", [dict(row, written_at="2099-01-01") for row in rows_of(later / "notes.csv")]
    )
    (later / "followup.csv").write_text("anything\nat all\n")
    changed, added = change_later_images(later / "dicom", moments)
    assert min(changed, added) > 10
    scored = score(run.bundle, later, root=later)
    assert [told(row) for row in scored] == [told(row) for row in before]
    assert sum(row.modalities["ct"] == "used" for row in before) > 20


def test_promise_2_a_later_date_of_a_record_was_an_empty_cell(small_run, tmp_path):
    shutil.copytree(small_run.data, tmp_path / "data")
    file = tmp_path / "data" / "cohort.yaml"
    declared = "    seen_before: {role: input, kind: date}\n    discharge_code:"
    file.write_text(file.read_text().replace("    discharge_code:", declared))
    rows = rows_of(tmp_path / "data" / "records.csv")

    def known(dates):
        written = [dict(row, seen_before=day) for row, day in zip(rows, dates, strict=True)]
        write_rows(tmp_path / "data" / "records.csv", written)
        return open_cohort(file.parent, file.parent, outcomes=False).patients

    early = [row["assessed_at"][:10] if i % 2 else "" for i, row in enumerate(rows)]
    days = ["2000-01-01" if day else "" for day in early]
    first = known([day or "2098-01-01" for day in days])
    assert known([day or "2099-12-31 23:59:59" for day in days]) == first
    assert known(days) == first
    assert known([day and "2000-01-02" for day in days]) != first


def test_promise_3_one_patient_scores_the_same_alone_in_a_batch_and_in_another_order(demo):
    chosen = subjects(demo, 12)
    whole = {row.subject_id: row for row in read_scores(demo.folder / "scores.parquet")}
    backwards = score(demo.bundle, demo.data, root=demo.data, subjects=chosen[::-1])
    for row in backwards:
        assert row == whole[row.subject_id]
    alone = json.loads(scored_alone(demo, chosen[0]))
    assert alone["outcomes"]["deterioration"]["logit"] == whole[chosen[0]].outcomes["deterioration"].logit


def test_promise_4_attributions_add_up_to_the_logit(demo):
    explainer = explainer_of(demo)
    for reference in (explainer.reference, explainer.centroids):
        for observed in observations(demo, explainer, 8):
            logit = explainer.scorer.logit(explainer.scorer.encode(observed))
            parts = explainer.explain(observed, reference)
            for part in (parts.modalities, *parts.fields.values()):
                assert part.base + sum(part.values) == pytest.approx(logit, abs=TOLERANCE)
            shares = dict(zip(parts.modalities.names, parts.modalities.values, strict=True))
            for name, part in parts.fields.items():
                own = sum(v for n, v in zip(part.names, part.values, strict=True) if n not in shares)
                assert own == pytest.approx(shares[name], abs=TOLERANCE)


def test_promise_4_the_number_of_a_score_is_the_sum_of_its_explanation(routed):
    """Of patients whom a submodel scores: base and shares add up to the logit that `score` gives."""
    scored = {row.subject_id: row for row in score(routed.bundle, routed.data, root=routed.data)}
    bundle = bundles.load(routed.bundle)
    explainer = Explainer(bundle, {name: m.declaration for name, m in bundle.modalities.items()})
    linked = open_cohort(routed.data, routed.data, outcomes=False)
    counted = dict.fromkeys((part.name for part in bundle.description.submodels), 0)
    for patient in linked.patients:
        row = scored[patient.subject_id]
        if counted.get(row.submodel, 3) == 3:
            continue
        counted[row.submodel] += 1
        parts = explainer.explain(explainer.scorer.observe(patient))
        assert parts.route.name == row.submodel
        for part in (parts.modalities, *parts.fields.values()):
            total = part.base + sum(part.values)
            assert total == pytest.approx(row.outcomes["deterioration"].logit, abs=TOLERANCE)
    assert set(counted.values()) == {3}


def test_promise_4_a_map_that_fails_its_gate_is_withheld(demo):
    explainer = explainer_of(demo)
    observed = next(seen for seen in observations(demo, explainer, 20) if "ct" in seen.inputs)
    gates = explainer.bundle.metrics["gate"]
    gates["ct"] = {"passed": True, "sentence": "passed"}
    shown = image_evidence(explainer, observed, "ct")
    assert any(part.map is not None for part in shown.slices)
    gates["ct"] = {"passed": False, "sentence": "looks alike with a random encoder"}
    withheld = image_evidence(explainer, observed, "ct")
    assert all(part.map is None for part in withheld.slices)
    assert withheld.gate == "withheld"
    assert withheld.gate_sentence == "looks alike with a random encoder"


def test_promise_4_a_network_that_never_learned_shows_no_map(small_run, tmp_path):
    """Its maps follow its logits, which say nothing; sealed and explained, none is shown."""
    recipe = (small_run.folder / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(
        recipe.replace("cohort: data", f"cohort: {small_run.data}").replace(
            "fitting: {epochs: 2}", "fitting: {epochs: 2, learning_rate: 1.0e-12, weight_decay: 0}"
        )
    )
    planned = training.plan(tmp_path, root=small_run.data, smoke=True)
    problem = assemble(
        planned.recipe, planned.cohort, planned.patients, work=tmp_path / "fits", cache=tmp_path / "cache"
    )
    found = cross_validate(problem, planned.folds)
    _, inputs = problem.fitted(np.arange(len(problem.labels)))
    names = list(problem.modalities)
    judged = judge(
        Predictions(problem.recipe, found, problem.labels, inputs.present, names=names, images=["ct"])
    )
    judged_by = {problem.tasks[0].name: judged}
    seal(problem, found, judged_by, run=tmp_path, spec=planned.spec, cohort_digest=planned.cohort.digest)
    bundle = bundles.load(tmp_path / "bundle")
    gate = bundle.metrics["gate"]["ct"]
    checks = {row["check"]: row["passed"] for row in gate["checks"]}
    assert checks["deletion"]
    assert not checks["skill"]
    assert not gate["passed"]
    explainer = Explainer(bundle, {name: m.declaration for name, m in bundle.modalities.items()})
    linked = open_cohort(small_run.data, small_run.data, outcomes=False)
    observed = next(seen for seen in map(explainer.scorer.observe, linked.patients) if "ct" in seen.inputs)
    shown = image_evidence(explainer, observed, "ct")
    assert shown.gate == "withheld"
    assert "AUROC" in shown.gate_sentence
    assert all(part.map is None for part in shown.slices)


def test_promise_5_the_image_must_earn_its_place(demo):
    verdict = bundles.load(demo.bundle).metrics["verdict"]
    assert verdict["word"] in ("helps", "does not help", "cannot tell")
    assert " ".join(verdict["sentence"].split()) in " ".join(demo.printed.split())
    assert {"tables", "trees", "logistic", "ct", "records", "biomarkers"} == set(verdict["differences"])


def test_promise_5_the_image_must_earn_its_place_in_what_ships(routed, door, tmp_path):
    """The fused network is compared, and so are the scores of the networks that take its place."""
    metrics = bundles.load(routed.bundle).metrics
    rivals = {"tables", "trees", "logistic", "ct", "records", "biomarkers", "late_mean"}
    assert rivals == set(metrics["verdict"]["differences"])
    told = metrics["verdict_of_shipped"]
    assert told["word"] in ("helps", "does not help", "cannot tell")
    assert rivals | {"fused"} == set(told["differences"])
    assert "what ships (routed) has an AUROC of" in told["sentence"]
    said = f"--cohort {routed.data} --root {routed.data} --folds --out {tmp_path}"
    done = door("explain", routed.bundle, *said.split())
    assert done.code == 0, done.err
    texts = {
        "terminal": (routed.folder / "told.txt").read_text(),
        "card": (routed.bundle / "MODEL_CARD.md").read_text(),
        "training": (routed.run / "training.html").read_text(),
        "cohort": next(tmp_path.glob("*.html")).read_text(),
    }
    for name, text in texts.items():
        plain = " ".join(html.unescape(text).split())
        assert " ".join(told["sentence"].split()) in plain, name
        figure, *_ = metrics["verdict"]["aurocs"]["fused"]
        assert f"the fused model has an AUROC of {figure:.2f} (" in plain, name


def test_the_planted_signal_is_found(demo):
    """Both sources carry signal and neither suffices alone: the fused model beats each."""
    found = bundles.load(demo.bundle).metrics["out_of_fold"]
    truth = json.loads((demo.data / "truth.json").read_text())["outcomes"]["deterioration"]["limit_auroc"]
    assert found["ct"]["auroc"][0] > 0.62
    assert found["fused"]["auroc"][0] > max(found["ct"]["auroc"][0], found["tables"]["auroc"][0])
    assert found["fused"]["auroc"][0] < truth["both"] + 0.08


def test_the_explanation_finds_the_planted_fields_and_lesions(demo):
    explainer = explainer_of(demo)
    truth = json.loads((demo.data / "truth.json").read_text())
    planted = truth["outcomes"]["deterioration"]["log_odds_per_standardised_field"]
    sizes: dict[str, list[float]] = {}
    enrichment = []
    for observed in observations(demo, explainer, 40):
        for name, part in explainer.explain(observed, explainer.centroids).fields.items():
            for player, value in zip(part.names, part.values, strict=True):
                if player not in explainer.description.modalities:
                    sizes.setdefault(f"{name}.{player}", []).append(abs(value))
        if "ct" in observed.inputs and len(enrichment) < 10:
            enrichment += in_lesion(explainer, observed, truth)
    ranked = sorted(sizes, key=lambda field: -np.mean(sizes[field]))
    assert len(set(ranked[:5]) & set(planted)) >= 2, ranked
    assert np.median(enrichment) > 3


def explainer_of(demo: Demo) -> Explainer:
    bundle = bundles.load(demo.bundle)
    return Explainer(bundle, {name: modality.declaration for name, modality in bundle.modalities.items()})


def observations(demo: Demo, explainer: Explainer, count: int):
    linked = open_cohort(demo.data, demo.data, subjects=subjects(demo, count), outcomes=False)
    for patient in linked.patients:
        observed = explainer.scorer.observe(patient)
        if not explainer.scorer.refusal(observed):
            yield observed


def in_lesion(explainer: Explainer, observed, truth) -> list[float]:
    """Return how much denser the attribution is inside the largest lesion than in the whole volume."""
    findings = truth["subjects"][observed.patient.subject_id]["images"]["ct"]["findings"]
    if not findings:
        return []
    lesion = max(findings, key=lambda finding: finding["radius_mm"])
    volume = observed.loaded["ct"]
    heat = np.abs(
        explainer.bundle.modalities["ct"].on_source_grid(volume, explainer.image_map(observed, "ct").spatial)
    )
    grid = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), -1)
    world = grid @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    inside = np.linalg.norm(world - np.array(lesion["centre_ras_mm"]), axis=-1) <= lesion["radius_mm"] + 10
    return [float(heat[inside].sum() / heat.sum() / inside.mean())]


def test_scoring_imports_nothing_that_trains(demo):
    """Torch, monai, mlflow, shap, scikit-learn, pandas and the like stay off the scoring path."""
    code = (
        "import sys; from pathlib import Path;"
        "from medmm.score import score; from medmm.outputs.table import to_json;"
        "bundle, data, subject = sys.argv[1:];"
        "rows = score(Path(bundle), Path(data), root=Path(data), subjects=[subject]);"
        "assert to_json(rows[0]);"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(demo.bundle), str(demo.data), subjects(demo, 1)[0]]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    heavy = {
        "torch",
        "monai",
        "mlflow",
        "shap",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "lightning",
        "pint",
    }
    assert not heavy & loaded
