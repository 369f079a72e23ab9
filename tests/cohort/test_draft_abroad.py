"""A draft of somebody else's export: other words, other marks, several pictures of each patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from medmm.cohort.draft.guess import field, outcome_of
from medmm.cohort.draft.profile import Column
from medmm.cohort.outcomes import OutcomeSpec
from tests.cohort.conftest import drafted
from tests.dicom.conftest import Scanner

IDS = [f"{n:07d}" for n in range(4711, 4751)]


def _table(path: Path, head: str, rows: list[str]) -> None:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="latin-1")


def test_subjects_are_known_by_their_images_and_every_picture_of_a_study_is_taken(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    _table(
        data / "Liste.csv",
        "Fallkennung;Untersuchung;Größe;Raucher;BI-RADS;Nummer",
        [
            f"{i};0{1 + n % 9}.03.2024;1,{50 + n};{('ja', 'nein', 'k.A.')[n % 3]};{n % 5};{n}"
            for n, i in enumerate(IDS)
        ],
    )
    for n, name in enumerate(IDS[:12]):
        views = Scanner(data / "bilder" / name)
        for view in range(4):
            views.series = views.series if n % 2 else f"1.2.{n}.{view}"
            pixels = np.random.default_rng(view).integers(0, 99, (32, 24)).astype(np.int16)
            plain = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
            views.slice(0, pixels=pixels, PatientID=name, Modality="MG", StudyDate="20240301", **plain)
    cohort, recipe, asked = drafted(data, tmp_path / "mine")
    assert cohort["subjects"] == {"table": "Liste.csv", "id": "Fallkennung"}
    assert cohort["decimal_comma"] == ["Liste.csv"]
    fields = cohort["records"]["fields"]
    assert fields["Größe"] == {"role": "input", "kind": "number"}
    assert fields["Raucher"] == {"role": "input", "kind": "category", "missing_codes": ["k.A."]}
    assert fields["BI-RADS"]["role"] == "never"
    assert any("perhaps 'BI-RADS' of Liste.csv" in question for question in asked)
    assert cohort["images"]["mg"]["choose"] == "all"
    assert (recipe["modalities"]["mg"]["kind"], recipe["modalities"]["mg"]["images"]) == ("bag", 4)


@pytest.mark.parametrize(
    ("name", "drafted"),
    [
        ("Creatinine (umol/L)", {"unit": "umol/L", "catalogue": "creatinine"}),
        ("Creatinine", {"catalogue": "creatinine"}),
        ("Creatinine (mm)", {"unit": "mm"}),
        ("Wall thickness [mm]", {"unit": "mm"}),
        ("Poids", {"unit": "kg"}),
    ],
)
def test_a_number_has_the_unit_that_its_name_states(name: str, drafted: dict[str, str]) -> None:
    column = Column(name, 40, 40, 40, 40, 0, 0, 0, 0)
    assert field(column).value == {"role": "input", "kind": "number"} | drafted


def test_of_loops_some_frames_are_taken(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    _table(
        data / "patients.csv", "patient_id,seen,bmi", [f"{i},2024-03-01,2{n}.5" for n, i in enumerate(IDS)]
    )
    flat = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None}
    loop = np.random.default_rng(0).integers(0, 99, (6, 32, 24)).astype(np.int16)
    for name in IDS[:6]:
        scanner = Scanner(data / "us" / name)
        scanner.save(scanner.dataset(loop, PatientID=name, Modality="US", StudyDate="20240301", **flat))
    cohort, recipe, asked = drafted(data, tmp_path / "mine")
    assert cohort["images"]["us"]["choose"] == "all"
    block = recipe["modalities"]["us"]
    assert (block["kind"], block["frames"], block["images"]) == ("bag", 4, 4)
    assert not any("dicom inspect" in question for question in asked)


def test_a_laboratory_s_own_words_and_units_are_understood(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    _table(data / "patients.csv", "patient;vu;IMC", [f"{i};2024-03-01;2{n % 9},5" for n, i in enumerate(IDS)])
    kinds = (("Créatinine", "88,4", "µmol/L"), ("Plaquettes", "200", "G/L"))
    results = [
        f"{i};{name};{value};{unit};2024-02-0{1 + n % 9} 07:30"
        for n, i in enumerate(IDS)
        for name, value, unit in kinds
    ]
    _table(data / "biologie.csv", "patient;analyte;résultat;unité;prélevé le", results)
    labels = [
        f"{i};{n / 7:.2f};{('oui', 'non', 'ND')[n % 3]};{n % 4}".replace(".", ",") for n, i in enumerate(IDS)
    ]
    _table(data / "outcomes.csv", "patient;raideur (kPa);stéatose;stade", labels)
    cohort, recipe, _ = drafted(data, tmp_path / "mine")
    results_block = cohort["biomarkers"]
    assert cohort["records"]["fields"]["IMC"] == {"role": "input", "kind": "number", "unit": "kg/m2"}
    assert results_block["columns"] == {
        "name": "analyte", "value": "résultat", "unit": "unité", "time": "prélevé le",
    }  # fmt: skip
    assert results_block["units"] == {"G/L": "10*9/L"}
    assert results_block["results"]["creatinine"]["unit"] == "µmol/L"
    assert results_block["results"]["plaquettes"]["unit"] == "10*9/L"
    assert cohort["outcomes"]["raideur"] == {
        "table": "outcomes.csv", "kind": "regression", "unit": "kPa", "column": "raideur (kPa)",
    }  # fmt: skip
    assert cohort["outcomes"]["steatose"]["missing_codes"] == ["ND"]
    assert cohort["outcomes"]["stade"]["classes"] == [0, 1, 2, 3]
    assert cohort["decimal_comma"] == ["patients.csv", "biologie.csv", "outcomes.csv"]
    assert cohort["splits"]["stratify"] == ["steatose"]
    assert recipe["outcome"] == "raideur"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("non", "oui"), "binary"),
        (("NA", "no"), None),
        (("a", "b", "c"), "multiclass"),
        (("mild", "none", "severe"), "multiclass"),
        (("none", "some"), "binary"),
        (("x",), None),
    ],
)
def test_an_outcome_is_of_the_kind_that_its_words_say(words: tuple[str, ...], kind: str | None) -> None:
    column = Column("y", 40, 40, len(words), 0, 0, 0, 0, 0, words)
    assert (outcome_of(column) or {}).get("kind") == kind


def test_a_table_of_tissue_is_no_table_of_outcomes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"{i},2024-03-01,{40 + n},{n % 3}" for n, i in enumerate(IDS)]
    _table(data / "tissue.csv", "patient_id,seen,age,ki67", rows)
    cohort, _, _ = drafted(data, tmp_path / "mine")
    assert cohort["records"]["table"] == "tissue.csv"
    assert cohort["outcomes"] == {}


def test_a_table_of_follow_up_is_asked_about_as_a_time_to_an_event(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    _table(
        data / "records.csv", "patient_id,seen,age", [f"{i},2024-03-01,{40 + n}" for n, i in enumerate(IDS)]
    )
    rows = [f"{i},{100 + 7 * n},{n % 2}" for n, i in enumerate(IDS)]
    _table(data / "follow_up.csv", "patient_id,follow_up_days,died", rows)
    _, _, asked = drafted(data, tmp_path / "mine")
    (question,) = (line for line in asked if "perhaps" in line)
    assert "delete follow_up.csv under `never_tables`" in question
    told = yaml.safe_load(question.split("`")[1])
    assert OutcomeSpec.model_validate(told["died"]) == OutcomeSpec(
        table="follow_up.csv", kind="survival", column="follow_up_days", event="died", positive=1
    )
