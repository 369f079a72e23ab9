"""The traps of the real cohorts, found from the data alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.spec import load_spec
from medmm.redteam.attack import RedTeam, attack, open_for_attack

COHORTS = Path(__file__).parents[2] / "cohorts"


def found_in(spec: dict[str, Any], folder: Path, root: Path) -> RedTeam:
    (folder / "cohort.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True))
    (found,) = attack(open_for_attack(load_spec(folder), root), root)
    return found


def named(found: RedTeam, *grades: str) -> list[str]:
    return [item.what for item in found.findings if item.grade in grades]


def without_images(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((COHORTS / name / "cohort.yaml").read_text())
    images = spec.pop("images")
    spec["splits"]["stratify"] = [word for word in spec["splits"]["stratify"] if word not in images]
    return spec


def put_in(spec: dict[str, Any], shared: Path, root: Path, columns: list[str]) -> None:
    """Write the tables to ``root`` with columns of post_index.csv among the records, as inputs."""
    rows = {
        row["patient_id"]: row for row in csv.DictReader((shared / "post_index.csv").read_text().splitlines())
    }
    records = list(csv.DictReader((shared / "records.csv").read_text().splitlines()))
    for row in records:
        row |= {column: rows.get(row["patient_id"], {}).get(column, "") for column in columns}
    with (root / "records.csv").open("w") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    for name in ("labels.csv", "biomarkers.csv", "post_index.csv"):
        (root / name).write_bytes((shared / name).read_bytes())
    for column in columns:
        spec["records"]["fields"][column] = {"role": "input", "kind": "category"}


@pytest.mark.real
def test_projection_and_image_size_of_mhh_covid(shared: Path) -> None:
    root = shared / "data/mhh_covid"
    (found,) = attack(open_for_attack(load_spec(COHORTS / "mhh_covid"), root), root)
    shortcuts = named(found, "shortcut")
    assert any("ViewPosition" in what for what in shortcuts)
    assert any("projection_at_index" in what for what in shortcuts)
    assert any("Rows" in what for what in shortcuts)
    assert any("number of series" in what for what in shortcuts)
    assert not named(found, "leak")
    assert found.shuffled is not None
    assert found.shuffled.lower < 0.5 < found.shuffled.upper


@pytest.mark.real
def test_post_operative_findings_of_kits19_put_in(shared: Path, tmp_path: Path) -> None:
    spec = without_images("kits19_egfr")
    columns = ["pathologic_size", "pathology_t_stage", "tumor_isup_grade", "surgical_procedure"]
    put_in(spec, shared / "data/kits19_egfr", tmp_path, columns)
    leaks = named(found_in(spec, tmp_path, tmp_path), "leak")
    for column in columns:
        assert any(f"records.{column}" in what for what in leaks), (column, leaks)
    assert not any("comorbidity" in what or "age_at" in what for what in leaks)


@pytest.mark.real
def test_post_operative_results_of_kits19_put_in(shared: Path, tmp_path: Path) -> None:
    """Results whose day nobody maps, and results let in by a prediction time years after the operation."""
    spec = without_images("kits19_egfr")
    put_in(spec, shared / "data/kits19_egfr", tmp_path, [])
    table = spec["biomarkers"]
    del table["columns"]["day"]
    table["undated"] = {"assume_known": "somebody said so"}
    del table["results"]["egfr"]["window_days"]
    spec["never_columns"]["biomarkers.csv"]["days_from_index"] = "not needed"
    found = found_in(spec, tmp_path, tmp_path)
    assert "biomarkers.csv: days_from_index" in named(found, "leak")
    spec = without_images("kits19_egfr")
    spec["prediction_time"] = {"day": 4000}
    spec["biomarkers"]["results"]["egfr"]["window_days"] = 9000
    assert "prediction_time day 4000" in named(found_in(spec, tmp_path, tmp_path), "leak")


@pytest.mark.real
def test_post_operative_egfr_of_kits19_put_in_as_a_field(shared: Path, tmp_path: Path) -> None:
    """Weak as it is, it is named, by its name."""
    spec = without_images("kits19_egfr")
    put_in(spec, shared / "data/kits19_egfr", tmp_path, [])
    results = csv.DictReader((tmp_path / "biomarkers.csv").read_text().splitlines())
    first = {row["patient_id"]: row["value"] for row in results if row["source_name"] == "first_postop_egfr"}
    head, *rows = (tmp_path / "records.csv").read_text().splitlines()
    rows = [f"{row},{first.get(row.split(',')[0], '')}" for row in rows]
    (tmp_path / "records.csv").write_text("\n".join([f"{head},first_postop_egfr", *rows]) + "\n")
    spec["records"]["fields"]["first_postop_egfr"] = {"role": "input", "kind": "number"}
    assert "records.first_postop_egfr" in named(found_in(spec, tmp_path, tmp_path), "look", "leak")


@pytest.mark.real
def test_histopath_type_of_picai_put_in(shared: Path, tmp_path: Path) -> None:
    spec = without_images("picai_psa")
    put_in(spec, shared / "data/picai_psa", tmp_path, ["histopath_type"])
    leaks = named(found_in(spec, tmp_path, tmp_path), "leak")
    assert "records.histopath_type" in leaks
    assert "records.histopath_type missing" in leaks
    assert not any("age" in what or "psa" in what for what in leaks)
