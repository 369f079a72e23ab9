"""The embedded cohort: the same bytes for a seed, real DICOM, the traps it promises, a truth that holds."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmm.cohort.link import Cohort, link
from medmm.cohort.spec import load_spec
from medmm.cohort.synthetic import synthesize
from medmm.cohort.synthetic.subjects import (
    MISSING_SLICE,
    NOTHING,
    PLANTED,
    TWO_STUDIES,
    expected_auroc,
    limits,
    subjects,
)
from medmm.cohort.synthetic.write import declaration
from medmm.columns import Status
from medmm.dicom import load_files
from medmm.errors import ConfigError, DicomRefusal, OutputError
from medmm.sample import Absence, SeriesSource

PATIENTS = 48
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("synthetic") / "cohort", patients=PATIENTS, seed=3)


@pytest.fixture(scope="module")
def truth(cohort: Path) -> dict[str, Any]:
    return json.loads((cohort / "truth.json").read_text())


@pytest.fixture(scope="module")
def headers(cohort: Path) -> list[pydicom.FileDataset]:
    return [
        pydicom.dcmread(path, stop_before_pixels=True)
        for path in sorted((cohort / "dicom").rglob("*"))
        if path.is_file() and path.suffix != ".log"
    ]


def table(cohort: Path, name: str) -> list[dict[str, str]]:
    with (cohort / name).open(newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_seed_gives_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    again = synthesize(tmp_path / "again", patients=PATIENTS, seed=3)
    assert digest(again) == digest(cohort)
    assert subjects(40, 3) != subjects(40, 4)


def test_the_first_patients_do_not_depend_on_how_many_there_are() -> None:
    assert subjects(60, 1)[:40] == subjects(40, 1)
    assert len({subject.subject_id for subject in subjects(3000, 1)}) == 3000


def test_a_cohort_that_is_there_is_left(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = synthesize(
        tmp_path / "cohort", patients=40, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(done, 40) for done in range(1, 41)]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert synthesize(folder, patients=40) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(OutputError, match="not empty"):
        synthesize(folder, patients=41)
    with pytest.raises(OutputError, match="is a file"):
        synthesize(folder / "labels.csv", patients=40)
    with pytest.raises(OutputError, match="choose a new or empty folder"):
        synthesize(folder / "labels.csv" / "below", patients=40)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "cohort", patients=40, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("patients", "seed"), [(39, 0), (0, 0), (40, -1), (10**6, 0)])
def test_a_number_that_makes_no_cohort_is_refused(patients: int, seed: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="40 to"):
        synthesize(tmp_path / "cohort", patients=patients, seed=seed)


def test_the_declaration_is_the_one_in_the_repository(cohort: Path) -> None:
    in_repository = (REPOSITORY / "cohorts" / "synthetic" / "cohort.yaml").read_bytes()
    assert declaration() == in_repository == (cohort / "cohort.yaml").read_bytes()
    spec = load_spec(cohort)
    assert list(spec.images) == ["ct", "radiograph"]
    assert set(spec.outcomes) == {*PLANTED, "admission", "disposition"}


def test_names_and_identity_elements_reveal_nobody(cohort: Path, headers: list[pydicom.FileDataset]) -> None:
    ids = {row["patient_id"] for row in table(cohort, "records.csv")}
    assert any(subject_id.startswith("0") for subject_id in ids)
    names = " ".join(path.relative_to(cohort).as_posix() for path in cohort.rglob("*"))
    assert not [subject_id for subject_id in ids if f"/{subject_id}" in names]
    assert {str(header.PatientName) for header in headers} == {"Synthetic^Subject"}


def test_the_archive_is_as_varied_as_promised(headers: list[pydicom.FileDataset]) -> None:
    syntaxes = {header.file_meta.TransferSyntaxUID.name for header in headers}
    assert len(syntaxes) == 4
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    ct = [header for header in headers if header.Modality == "CT"]
    radiographs = [header for header in headers if header.Modality == "DX"]
    assert {header.PhotometricInterpretation for header in radiographs} == {"MONOCHROME1", "MONOCHROME2"}
    assert {"PixelSpacing" in header for header in radiographs} == {True, False}
    assert {header.RescaleIntercept for header in ct} == {-1024, 0}
    assert [header for header in ct if "LOCALIZER" in header.ImageType]
    sizes = Counter(header.SeriesInstanceUID for header in ct if "LOCALIZER" not in header.ImageType)
    assert sorted(set(sizes.values())) == [15, 16]
    assert list(sizes.values()).count(15) == 1
    studies = Counter(header.PatientID for header in {h.StudyInstanceUID: h for h in ct}.values())
    assert max(studies.values()) >= 2


def test_slices_are_in_no_order_by_name(cohort: Path) -> None:
    folders = [folder for folder in (cohort / "dicom").iterdir() if folder.is_dir()]
    orders = []
    for folder in folders:
        read = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
        if len(read) > 10:
            orders.append([int(header.InstanceNumber) for header in read])
    assert all(order != sorted(order) for order in orders)


@pytest.mark.parametrize("block", ["ct", "radiograph"])
def test_the_finding_is_where_the_truth_says(
    block: str, cohort: Path, truth: dict[str, Any], headers: list[pydicom.FileDataset]
) -> None:
    """Reads the files with pydicom alone; the brightest voxels must lie inside the sphere."""
    checked = 0
    for subject_id, entry in list(truth["subjects"].items())[:24]:
        shown = entry["images"].get(block)
        if not shown or not shown["findings"] or not shown["usable"]:
            continue
        place = shown["findings"][0]
        array, centre, spacing = _index_image(cohort, subject_id, block, headers)
        if block == "ct":
            assert centre(place["centre_voxel"]) == pytest.approx(place["centre_ras_mm"], abs=0.01)
            middle, bright = place["centre_voxel"], array > 260
        else:
            middle, bright = place["centre_pixel"], array > 3250
        offsets = (np.argwhere(bright) - np.array(middle)) * np.array(spacing)
        distance = np.sqrt((offsets**2).sum(axis=1))
        assert len(distance) > 3
        assert distance.max() <= place["radius_mm"] + 2 * max(spacing)
        assert np.abs(offsets.mean(axis=0)).max() < max(spacing) / 2
        checked += 1
    assert checked >= 8


def _index_image(
    cohort: Path, subject_id: str, block: str, headers: list[pydicom.FileDataset]
) -> tuple[np.ndarray, Any, tuple[float, ...]]:
    """Return the last series before the prediction time as an array, a map of voxels to mm, and spacing."""
    assessed = next(
        row["assessed_at"] for row in table(cohort, "records.csv") if row["patient_id"] == subject_id
    )
    modality = "CT" if block == "ct" else "DX"
    mine = [h for h in headers if h.PatientID == subject_id and h.Modality == modality]
    by_study = {h.AcquisitionDate + h.AcquisitionTime: h.StudyInstanceUID for h in mine}
    limit = "".join(letter for letter in assessed if letter.isdigit())
    chosen = by_study[max(stamp for stamp in by_study if stamp <= limit)]
    files = [pydicom.dcmread(h.filename) for h in mine if h.StudyInstanceUID == chosen]
    files = [file for file in files if "LOCALIZER" not in file.ImageType]
    if block == "radiograph":
        array = files[0].pixel_array.astype(float)
        return (
            4095 - array if files[0].PhotometricInterpretation == "MONOCHROME1" else array,
            None,
            (4.0, 4.0),
        )
    files.sort(key=lambda file: file.ImagePositionPatient[2])
    hu = np.stack([file.pixel_array * file.RescaleSlope + file.RescaleIntercept for file in files])
    ras = hu.transpose(2, 1, 0)[::-1, ::-1]
    x, y, z = (float(value) for value in files[0].ImagePositionPatient)
    first = (-(x + 31 * 8), -(y + 31 * 8), z)

    def to_mm(voxel: list[float]) -> list[float]:
        return [start + index * step for start, index, step in zip(first, voxel, (8, 8, 10), strict=True)]

    return ras, to_mm, (8.0, 8.0, 10.0)


def test_the_logit_is_the_sum_of_what_was_planted(truth: dict[str, Any]) -> None:
    for entry in truth["subjects"].values():
        for outcome, planted in truth["outcomes"].items():
            parts = entry[outcome]
            whole = planted["intercept"] + parts["from_image"] + parts["from_tables"]
            assert parts["logit"] == pytest.approx(whole, abs=2e-6)
        fields = entry["fields"]
        frailty = ["fit", "vulnerable", "frail", "severely frail"].index(fields["records.frailty"])
        tables = (
            0.8 * (fields["records.age"] - 62) / 14
            + 0.8 * (frailty - 1.15)
            + 1.2 * (math.log(max(fields["biomarkers.crp"], 0.1)) - 3.4) / 1.1
        )
        assert entry["deterioration"]["from_tables"] == pytest.approx(tables, abs=1e-6)


def test_neither_image_nor_tables_suffice_alone(truth: dict[str, Any]) -> None:
    for planted in truth["outcomes"].values():
        best = planted["limit_auroc"]
        assert 0.65 < best["tables"] < 0.8
        assert 0.72 < best["image"] < 0.82
        assert best["both"] > max(best["tables"], best["image"]) + 0.07


@pytest.mark.parametrize("outcome", sorted(PLANTED))
def test_the_limits_are_those_of_the_labels_drawn(outcome: str) -> None:
    """An oracle that knows the parts reaches the limits on labels, counted by pairs."""
    people = subjects(2000, 5)
    labels = np.array([person.labels[outcome] for person in people])
    for part, limit in limits(5)[outcome].items():
        score = np.array([{"image": p[0], "tables": p[1], "both": sum(p)}[part] for p in
                          (person.parts[outcome] for person in people)])  # fmt: skip
        difference = score[labels == 1][:, None] - score[labels == 0][None]
        auroc = (difference > 0).mean() + (difference == 0).mean() / 2
        assert auroc == pytest.approx(limit, abs=0.035)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.01, 0.99)), min_size=2, max_size=12))
def test_expected_auroc_is_the_mean_over_pairs(rows: list[tuple[int, float]]) -> None:
    score, probability = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    won = weight = 0.0
    for i in range(len(score)):
        for j in range(len(score)):
            if i != j:
                pair = probability[i] * (1 - probability[j])
                weight += pair
                won += pair * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
    assert expected_auroc(score, probability) == pytest.approx(won / weight, abs=1e-9)


def test_the_tables_hold_the_promised_traps(cohort: Path) -> None:
    results = table(cohort, "biomarkers.csv")
    assessed = {row["patient_id"]: row["assessed_at"] for row in table(cohort, "records.csv")}
    known = [row for row in results if row["patient_id"] in assessed]
    assert len(results) - len(known) == 1
    values = [row["value"] for row in known]
    assert [value for value in values if value.startswith("<")]
    assert [value for value in values if value.startswith(">=")]
    assert [value for value in values if value.endswith(" H")]
    assert [value for value in values if value in ("haemolysed", "see comment")]
    assert {row["unit"] for row in known if row["code"] == "2345-7"} == {"mg/dL", "mmol/L"}
    assert {row["status"] for row in known} == {"final", "preliminary", "corrected"}
    assert {row["code"] for row in known if not row["collected_at"]} == {"718-7"}
    dated = [row for row in known if row["collected_at"]]
    assert [row for row in dated if row["collected_at"] > assessed[row["patient_id"]]]
    late = [r for r in dated if r["collected_at"] <= assessed[r["patient_id"]] < r["available_at"]]
    assert late
    records = table(cohort, "records.csv")
    assert {row["smoking"] for row in records} >= {"", "unknown", "never"}
    assert [row for row in records if row["weight_kg"] == "780"]
    assert {row["pneumonia"] for row in table(cohort, "labels.csv")} == {"0", "1", ""}


def test_later_results_leak_the_outcome(cohort: Path, truth: dict[str, Any]) -> None:
    """Whoever uses results from after the prediction time gets a figure that is too good."""
    assessed = {row["patient_id"]: row["assessed_at"] for row in table(cohort, "records.csv")}
    later: dict[str, list[float]] = {}
    for row in table(cohort, "biomarkers.csv"):
        number = row["value"].removeprefix("<")
        if row["code"] == "1988-5" and row["collected_at"] > assessed.get(row["patient_id"], "9"):
            ratio = float(number) * (10 if row["unit"] == "mg/dL" else 1)
            later.setdefault(row["patient_id"], []).append(
                ratio / truth["subjects"][row["patient_id"]]["fields"]["biomarkers.crp"]
            )
    labels = {subject: truth["subjects"][subject]["deterioration"]["label"] for subject in later}
    rising = [max(ratios) > 2 for ratios in later.values()]
    agree = np.mean([up == bool(label) for up, label in zip(rising, labels.values(), strict=True)])
    assert len(later) > 20
    assert agree > 0.9


def test_the_special_patients(cohort: Path, truth: dict[str, Any]) -> None:
    ids = list(truth["subjects"])
    nothing = next(r for r in table(cohort, "records.csv") if r["patient_id"] == ids[NOTHING])
    kept = {"patient_id", "assessed_at", "site", "discharge_code"}
    assert not [cell for column, cell in nothing.items() if cell and column not in kept]
    assert not [row for row in table(cohort, "biomarkers.csv") if row["patient_id"] == ids[NOTHING]]
    assert truth["subjects"][ids[NOTHING]]["images"] == {}
    assert not truth["subjects"][ids[MISSING_SLICE]]["images"]["ct"]["usable"]
    assert truth["subjects"][ids[TWO_STUDIES]]["images"]["ct"]["usable"]


def test_dates_are_fictional_and_have_a_time_of_day(cohort: Path) -> None:
    times = [datetime.fromisoformat(row["assessed_at"]) for row in table(cohort, "records.csv")]
    assert {time.year for time in times} <= {2001, 2002}
    assert len({time.hour for time in times}) > 10


@pytest.fixture(scope="module")
def linked(cohort: Path) -> Cohort:
    return link(load_spec(cohort), cohort, key=b"k" * 32)


@pytest.mark.parametrize("name", ["crp", "procalcitonin", "glucose", "haemoglobin", "egfr"])
def test_a_join_finds_the_true_values_under_the_traps(
    name: str, linked: Cohort, truth: dict[str, Any]
) -> None:
    """Units, limits, flags, corrections, late and later results: what is left is what was planted."""
    known = 0
    for patient in linked.patients:
        row = patient.sources["biomarkers"]
        assert isinstance(row, Mapping)
        value = row[name]
        true = truth["subjects"][patient.subject_id]["fields"][f"biomarkers.{name}"]
        if value.status is Status.KNOWN and not value.comparator:
            assert value.value == pytest.approx(true, rel=0.03, abs=0.06)
        elif value.status is Status.KNOWN:
            limit = value.value
            assert isinstance(limit, float)
            assert true < limit if value.comparator == "<" else true >= limit
        known += value.status is Status.KNOWN
    assert known > PATIENTS / 2


def test_a_join_keeps_everybody_of_the_records(linked: Cohort, truth: dict[str, Any]) -> None:
    assert [patient.subject_id for patient in linked.patients] == sorted(truth["subjects"])
    assert linked.flow.subjects.parts == {"kept": PATIENTS, "not_in_subjects": 2}
    reasons = {
        source.reason for p in linked.patients for source in p.sources.values() if isinstance(source, Absence)
    }
    assert "later" in reasons


def test_the_loader_agrees_with_the_truth_about_place(linked: Cohort, truth: dict[str, Any]) -> None:
    reasons = []
    for patient in linked.patients:
        source = patient.sources["ct"]
        if isinstance(source, Absence):
            continue
        assert isinstance(source, SeriesSource)
        try:
            volume = load_files(source.files)
        except DicomRefusal as refusal:
            reasons.append(refusal.reason)
            continue
        assert volume.spacing_mm == (8.0, 8.0, 10.0)
        for place in truth["subjects"][patient.subject_id]["images"]["ct"]["findings"]:
            mm = volume.affine @ np.array([*place["centre_voxel"], 1.0])
            assert mm[:3] == pytest.approx(place["centre_ras_mm"], abs=0.01)
            assert volume.array[tuple(np.rint(place["centre_voxel"]).astype(int))] > 250
    assert reasons == ["missing_slices"]
