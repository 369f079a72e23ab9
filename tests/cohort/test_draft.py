"""A draft writes what is plain and asks the rest; answered, it loads and joins."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medmm.cohort.draft import draft
from medmm.cohort.draft.lines import write_new
from medmm.cohort.link import link
from medmm.cohort.spec import load_spec
from medmm.errors import ConfigError, DataError, OutputError
from medmm.modalities.image import Image, ImageSettings
from medmm.recipe import load_recipe
from tests.dicom.conftest import Scanner

NAMES = [f"P{n:03d}" for n in range(40)]


def _folder(root: Path) -> Path:
    data = root / "data"
    data.mkdir()
    records = ["patient_id,visit_date,age,sex,smoking_years,discharge_ward,site_name,height,comment,blank"]
    for n, name in enumerate(NAMES):
        years = "unknown" if n % 5 == 0 else str(n)
        records.append(
            f"{name},2024-03-{1 + n % 28:02d},{40 + n},{'mf'[n % 2]},{years},w{n},x,{150 + n},a note of {n},"
        )
    (data / "records.csv").write_text("\n".join(records) + "\n")
    labels = ["patient_id,ill,died_on", *(f"{name},{n % 2},2024-05-01" for n, name in enumerate(NAMES))]
    (data / "labels.csv").write_text("\n".join(labels) + "\n")
    results = ["patient_id,code,name,value,unit,collected_at,ward"]
    for n, name in enumerate(NAMES):
        value, unit = (5 + n / 10, "mmol/L") if n % 2 else (90 + n, "mg/dL")
        results.append(f"{name},2345-7,Glucose,{value},{unit},2024-02-01,a")
        results.append(f"{name},,Oddity,1,furlong,,a")
    (data / "results.csv").write_text("\n".join(results) + "\n")
    (data / "followup.csv").write_text("patient_id,x\nP000,1\n")
    (data / "misc.csv").write_text("thing,x\na,1\n")
    (data / "broken.csv").write_text("")
    return data


def _answered(path: Path) -> dict[str, Any]:
    text = re.sub(r"\s*# \?.*", "", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_what_is_plain_is_written_and_the_rest_is_asked(tmp_path: Path) -> None:
    data = _folder(tmp_path)
    out, pipeline = tmp_path / "cohorts" / "mine", tmp_path / "pipelines" / "mine"
    found = draft(data, out, pipeline=pipeline)
    assert found.lines()[0].startswith("40 subjects; no DICOM folder; ")
    with pytest.raises(ConfigError, match="12 questions for you"):
        load_spec(out)
    asked = {
        line.split(":")[0].strip()
        for line in out.joinpath("cohort.yaml").read_text().splitlines()
        if "# ?" in line
    }
    assert {
        "ill",
        "discharge_ward",
        "smoking_years",
        "oddity",
        "followup.csv",
        "misc.csv",
        "broken.csv",
    } <= asked
    assert {"died_on", "ward", "undated", "prediction_time"} <= asked
    assert not {"age", "sex", "height", "blank", "glucose"} & asked
    spec = _answered(out / "cohort.yaml")
    fields = spec["records"]["fields"]
    assert fields["age"] == {"role": "input", "kind": "number", "unit": "a"}
    assert fields["height"] == {"role": "input", "kind": "number", "unit": "cm"}
    assert fields["smoking_years"]["missing_codes"] == ["unknown"]
    assert [fields[name]["role"] for name in ("sex", "discharge_ward", "comment", "blank", "site_name")] == [
        "input",
        "never",
        "never",
        "never",
        "never",
    ]
    results = spec["biomarkers"]["results"]
    assert results["glucose"]["molar_mass_g_per_mol"] == 180.156
    assert (
        results["glucose"]["plausible"]
        == {"mg/dL": [0, 2200], "mmol/L": [0, 122.116]}[results["glucose"]["unit"]]
    )
    assert results["oddity"]["role"] == "never"
    recipe = _answered(pipeline / "recipe.yaml")
    assert (recipe["cohort"], recipe["outcome"]) == ("../../cohorts/mine", "ill")


def test_an_answered_draft_joins(tmp_path: Path) -> None:
    data, out = _folder(tmp_path), tmp_path / "mine"
    draft(data, out)
    _answered(out / "cohort.yaml")
    cohort = link(load_spec(out), data, key=b"k" * 32)
    assert len(cohort.patients) == 40
    assert cohort.flow.results.parts == {"used": 40, "never": 40}


def test_what_ranges_over_magnitudes_is_drafted_on_a_logarithmic_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    ages, sizes, shifts = rng.normal(60, 10, 200), rng.lognormal(0, 1, 200), rng.lognormal(0, 1, 200)
    rows = [
        f"P{n:03d},{a:.1f},{s:.3f},{-x:.2f},{n % 4}"
        for n, (a, s, x) in enumerate(zip(ages, sizes, shifts, strict=True))
    ]
    (data / "records.csv").write_text("\n".join(["patient_id,age,size_mm,shift,parity", *rows]) + "\n")
    results = ["patient_id,code,name,value,unit"]
    for n in range(200):
        name = ("CRP", "C-reactive protein")[n % 2]  # one code, whatever the laboratory calls it
        results.append(f"P{n:03d},1988-5,{name},<{rng.lognormal(2, 1.2):.1f},mg/L")
        results.append(f"P{n:03d},,Excess,{-rng.lognormal(0, 1):.1e},mmol/L")
        results.append(f"P{n:03d},2951-2,Sodium,{rng.normal(140, 4):.1f},mmol/L")
    (data / "results.csv").write_text("\n".join(results) + "\n")
    draft(data, tmp_path / "mine")
    spec = _answered(tmp_path / "mine" / "cohort.yaml")
    fields = {name: block.get("scale") for name, block in spec["records"]["fields"].items()}
    assert fields == {"age": None, "size_mm": "log", "shift": None, "parity": None}
    found = {name: block.get("scale") for name, block in spec["biomarkers"]["results"].items()}
    assert found.pop("excess") is None
    assert sorted(found.values(), key=str) == [None, "log"]
    assert found["sodium"] is None


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    data, out = _folder(tmp_path), tmp_path / "mine"
    draft(data, out)
    before = (out / "cohort.yaml").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        draft(data, out)
    assert (out / "cohort.yaml").read_bytes() == before


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no table"):
        draft(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="is no folder"):
        draft(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_hostile_column_names_stay_text(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    name = "a: {b} # ? [x] \"'; DROP TABLE t"
    quoted = '"' + name.replace('"', '""') + '"'
    rows = "".join(f"P{n},{n % 7},{n % 2}\n" for n in range(30))
    (data / "records.csv").write_text(f"patient_id,{quoted},flag\n{rows}")
    draft(data, tmp_path / "out")
    text = (tmp_path / "out" / "cohort.yaml").read_text()
    spec = yaml.safe_load(text)
    assert name in spec["records"]["fields"]


def test_an_export_of_a_hospital_is_asked_about_and_leaks_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    names = "MRN,Admission Date,Clinic,Age (years),Weight (kg),LOS (d),Born"
    rows = [
        f"P{n},{1 + n % 28:02d}.06.2024 05:43,n,{40 + n},{60 + n}.5,{n},{1 + n % 28}-Jun-24"
        for n in range(40)
    ]
    (data / "Patients.csv").write_text("\n".join([names, *rows]) + "\n")
    results = [f"P{n},CRP,{n},mg/L,{1 + n % 28:02d}/06/2024" for n in range(40) for _ in range(2)]
    (data / "Lab.csv").write_text("\n".join(["MRN,Test Name,Result,Units,Sample taken", *results]) + "\n")
    (data / "endpoint.csv").write_text("MRN,ICU\n" + "".join(f"P{n},{'YN'[n % 2]}\n" for n in range(40)))
    out = tmp_path / "mine"
    asked = {line: question for _, line, question in draft(data, out).questions}
    text = (out / "cohort.yaml").read_text().splitlines()
    rewritten = {text[line - 1].split(":")[0].strip() for line, q in asked.items() if "ISO 8601" in q}
    assert rewritten == {"Born"}
    fields = _answered(out / "cohort.yaml")["records"]["fields"]
    assert fields["LOS (d)"]["role"] == "never"
    assert (fields["Age (years)"]["unit"], fields["Weight (kg)"]["unit"]) == ("a", "kg")
    spec = yaml.safe_load((out / "cohort.yaml").read_text())
    assert spec["outcomes"] == {"ICU": {"table": "endpoint.csv", "kind": "binary", "positive": "Y"}}
    columns = {"name": "Test Name", "value": "Result", "unit": "Units", "time": "Sample taken"}
    assert spec["biomarkers"]["columns"] == columns
    assert spec["dates"] == {
        "Patients.csv": {"Admission Date": "dd.mm.yyyy"},
        "Lab.csv": {"Sample taken": "dd/mm/yyyy"},
    }


@pytest.mark.real
def test_the_real_cohort_needs_few_answers(shared: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared("data/picai_psa")
    found = draft(data, tmp_path / "picai", pipeline=tmp_path / "pipeline")
    assert (found.subjects, found.imaged) == (1062, (431, 431))
    assert found.lines()[0].startswith("1062 subjects; patient_id = DICOM PatientID in 431/431; ")
    asked = [file.name for file, _, _ in found.questions]
    assert asked.count("cohort.yaml") <= 6
    assert asked.count("recipe.yaml") <= 1
    spec = _answered(tmp_path / "picai" / "cohort.yaml")
    assert spec["prediction_time"] == {"table": "records.csv", "column": "mri_date", "resolution": "day"}
    assert spec["images"]["mr"]["labels"] == [100, 200]
    planned = _answered(tmp_path / "pipeline" / "recipe.yaml")["modalities"]["mr"]
    assert (planned["spacing_mm"], planned["shape"]) == ([2, 2, 3], [40, 40, 24])
    assert "post_index.csv" in spec["never_tables"]
    cohort = link(load_spec(tmp_path / "picai"), data, key=b"k" * 32)
    assert cohort.flow.files.parts["used"] == 7440


def test_a_draft_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "cohort.yaml"
    with pytest.raises(UnicodeEncodeError):
        write_new(path, "name: whole\n" * 10_000 + "\ud800")
    assert list(tmp_path.iterdir()) == []
    write_new(path, "name: first\n")
    with pytest.raises(FileExistsError):
        write_new(path, "name: second\n")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["name: first\n"]


def _scanned(data: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """Write one CT of each patient: slices of a size, background alone but for one bright square."""
    for name, (side, slices) in sizes.items():
        scanner = Scanner(data / "dicom" / name)
        for z in range(slices):
            pixels = np.zeros((side, side), np.int16)
            pixels[side // 4 : side // 2, side // 4 : side // 2] = 1 if side > 8 else 0
            elements = {"RescaleIntercept": 0, "PixelSpacing": [2, 2], "SliceThickness": 3}
            scanner.slice(3.0 * z, pixels=pixels, PatientID=name, StudyDate="20240301", **elements)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, None),
        ({NAMES[0]: (32, 4)}, "label_map"),
        (dict.fromkeys(NAMES[:3], (8, 3)), "intensity"),  # label maps of background alone
        ({NAMES[0]: (16, 2), NAMES[1]: (300, 3), NAMES[2]: (32, 4)}, "label_map"),
    ],
    ids=("no image", "one patient", "nothing but background", "wildly different sizes"),
)
def test_the_drafted_recipe_is_one(
    tmp_path: Path, sizes: dict[str, tuple[int, int]], expected: str | None
) -> None:
    data = _folder(tmp_path)
    _scanned(data, sizes)
    draft(data, tmp_path / "mine", pipeline=tmp_path / "pipeline")
    _answered(tmp_path / "mine" / "cohort.yaml")
    written = _answered(tmp_path / "pipeline" / "recipe.yaml")
    spec = load_spec(tmp_path / "mine")
    recipe = load_recipe(tmp_path / "pipeline")
    assert {"batch_size", "epochs", "patience"} == set(written["fitting"])
    assert set(written["modalities"]) == {"records", "biomarkers"} | set(spec.images)
    if expected:
        (name,) = spec.images
        assert spec.images[name].kind == expected
        block = dict(recipe.modalities[name])
        assert block.pop("kind") == "image"
        built = Image(name, ImageSettings.model_validate(block), spec.images[name])
        assert built.shape[1:] == tuple(written["modalities"][name]["shape"])


def test_every_setting_is_drafted_with_its_reason(tmp_path: Path) -> None:
    data = _folder(tmp_path)
    _scanned(data, dict.fromkeys(NAMES[:12], (16, 3)))
    draft(data, tmp_path / "mine", pipeline=tmp_path / "pipeline")
    lines = (tmp_path / "pipeline" / "recipe.yaml").read_text().splitlines()
    for key in ("spacing_mm", "shape", "encoder", "augment", "batch_size", "epochs", "patience"):
        (line,) = (line for line in lines if line.strip().startswith(f"{key}:"))
        assert re.search(r" # [^?].{10,}", line), line
