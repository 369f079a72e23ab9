"""The catalogue holds together, converts both ways, and fills in only what is left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from medmm.catalogue import Entry, agreement, by_code, by_name, entries, sources, with_catalogue
from medmm.columns import FieldSpec, ResultSpec
from medmm.errors import ConfigError, DataError
from medmm.units import check_unit, factor

# IUPAC's abridged standard atomic weights, 2021
WEIGHTS = {
    "H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "P": 30.974, "Fe": 55.845,
    "Ca": 40.078, "Mg": 24.305, "I": 126.90,
}  # fmt: skip
EVERY = list(entries().values())
MOLAR = [entry for entry in EVERY if entry.molar_mass_g_per_mol]


def check_digit(code: str) -> bool:
    """LOINC's, which is Luhn's (LOINC Users' Guide, appendix C)."""
    digits, given = code.split("-")
    doubled = [int(d) * (1 + (place % 2 == 0)) for place, d in enumerate(reversed(digits))]
    return (10 - sum(n // 10 + n % 10 for n in doubled) % 10) % 10 == int(given)


def test_there_are_sixty_and_no_code_or_name_twice() -> None:
    assert len(EVERY) >= 60
    codes = [code for entry in EVERY for code in (entry.code, *entry.also)]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"\d{1,7}-\d", code) and check_digit(code) for code in codes)
    names = [name for entry in EVERY for name in {entry.key, *entry.names}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.key)
def test_every_entry_is_coherent(entry: Entry) -> None:
    check_unit(entry.unit)
    molar = entry.molar_mass_g_per_mol
    for unit in entry.units:
        there = factor(unit, entry.unit, molar_mass_g_per_mol=molar)
        back = factor(entry.unit, unit, molar_mass_g_per_mol=molar)
        assert there * back == pytest.approx(1, rel=1e-12)
    assert re.search(r"[\u4e00-\u9fff]", entry.label_zh)
    assert set(entry.sources) == {w for w in ("plausible", "reference") if getattr(entry, w)}
    assert set(entry.sources.values()) <= set(sources())
    if entry.reference:
        assert entry.plausible
        assert entry.plausible[0] <= entry.reference[0] < entry.reference[1] <= entry.plausible[1]
    ResultSpec(role="input", code=entry.code, unit=entry.unit, plausible=entry.plausible)


@pytest.mark.parametrize("entry", MOLAR, ids=lambda entry: entry.key)
def test_a_molar_mass_follows_from_its_formula_and_converts_both_ways(entry: Entry) -> None:
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", entry.formula)
    mass = sum(WEIGHTS[element] * int(count or 1) for element, count in parts)
    molar = entry.molar_mass_g_per_mol
    assert molar == pytest.approx(mass, abs=0.006)
    for value in (0.1, 7.3, 1234.5):
        amount = value * factor("mg/dL", "mmol/L", molar_mass_g_per_mol=molar)
        assert amount * factor("mmol/L", "mg/dL", molar_mass_g_per_mol=molar) == pytest.approx(value)
        assert amount == pytest.approx(value * 10 / mass, rel=1e-4)


def test_figures_that_everybody_knows() -> None:
    assert factor("mmol/L", "mg/dL", molar_mass_g_per_mol=entries()["glucose"].molar_mass_g_per_mol) == (
        pytest.approx(18.0156, abs=1e-3)
    )
    urea = entries()["urea_nitrogen"].molar_mass_g_per_mol
    assert factor("mmol/L", "mg/dL", molar_mass_g_per_mol=urea) == pytest.approx(2.8, abs=0.01)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crp", 450), ("creatine_kinase", 100_000), ("tsh", 300), ("ggt", 3000), ("amylase", 8000),
        ("bilirubin_direct", 25), ("lymphocytes", 400), ("eosinophils", 60), ("monocytes", 80),
        ("ammonia", 1500), ("neutrophils", 200), ("glucose", 15), ("lactate", 0.3), ("po2_arterial", 25),
        ("prothrombin_time", 9),
        ("prothrombin_time", 120), ("anion_gap", 3), ("alt", 1), ("alkaline_phosphatase", 12),
        ("troponin_t", 0.003), ("phosphate", 0.3), ("urea_nitrogen", 200), ("platelets", 1500),
    ],
)  # fmt: skip
def test_what_the_very_ill_have_is_not_called_implausible(key: str, value: float) -> None:
    low, high = entries()[key].plausible or (0, 0)
    assert low <= value <= high


@pytest.mark.parametrize("entry", [e for e in EVERY if e.in_units], ids=lambda entry: entry.key)
def test_a_code_in_another_unit_brings_that_unit_and_its_ranges(entry: Entry) -> None:
    assert set(entry.in_units) <= set(entry.also)
    assert set(entry.in_units.values()) <= set(entry.units)
    for code, unit in entry.in_units.items():
        for block in ("biomarkers", "records"):
            found = spec({"code": code}, block=block)
            assert (found.unit, found.reference) == (unit, entry.range_in("reference", unit))
        assert spec({"code": code, "unit": entry.unit}).unit == entry.unit
    assert spec({"code": entry.code}).unit == entry.unit


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Hgb", "hemoglobin"), ("serum_sodium", "sodium"), ("Serum Sodium", "sodium"), ("WBC", "leukocytes"),
        ("eosinophil jokes", None), ("", None), ("alanine aminotransferase", "alt"),
    ],
)  # fmt: skip
def test_names_of_columns_are_recognised(name: str, key: str | None) -> None:
    found = by_name(name)
    assert (found.key if found else None) == key


def spec(column: dict[str, Any], *, block: str = "biomarkers") -> Any:
    part = "results" if block == "biomarkers" else "fields"
    filled = with_catalogue({block: {"table": "t.csv", part: {"x": {"role": "input", **column}}}})
    return (ResultSpec if block == "biomarkers" else FieldSpec).model_validate(filled[block][part]["x"])


def test_what_is_left_out_is_inherited_and_own_values_win() -> None:
    whole = spec({"catalogue": "glucose"})
    entry = entries()["glucose"]
    assert (whole.code, whole.unit, whole.plausible) == (entry.code, "mg/dL", entry.plausible)
    assert (whole.label, whole.label_zh, whole.molar_mass_g_per_mol) == ("Glucose", "葡萄糖", 180.156)
    own = spec({"code": "14749-6", "unit": "mmol/L", "label": "Sugar", "reference": [4, 5]})
    assert (own.unit, own.label, own.reference, own.code) == ("mmol/L", "Sugar", (4, 5), "14749-6")
    assert entry.plausible
    assert own.plausible == pytest.approx([value / 18.0156 for value in entry.plausible], rel=1e-4)
    assert (
        agreement(whole)
        == "plausible range (mimic_outlier), reference range (oxgp) from the catalogue's glucose"
    )
    assert agreement(own) == "plausible range (mimic_outlier) from the catalogue's glucose"
    assert spec({"name": "sugar", "catalogue": "glucose"}).code is None
    assert spec({"code": "local-7"}).unit is None
    wide = spec({"catalogue": "hemoglobin"}, block="records")
    assert (wide.kind, wide.unit, wide.label) == ("number", "g/dL", "Hemoglobin")
    other = spec({"code": "2345-7", "unit": "kg"})  # what the catalogue cannot convert, it does not offer
    assert other.plausible is None
    assert agreement(other) == ""


def test_a_mistake_says_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="did you mean 'hemoglobin'"):
        spec({"catalogue": "hgb"})
    with pytest.raises(ConfigError, match="no test of the catalogue"):
        spec({"catalogue": "phlogiston"})
    with pytest.raises(DataError):
        entries()["albumin"].range_in("plausible", "mmol/L")
    assert by_code("0-0") is None


def test_labels_in_two_languages_and_snomed() -> None:
    column = FieldSpec.model_validate(
        {"role": "input", "label": {"en": "Age", "zh": "年龄"}, "snomed": "397669002"}
    )
    assert (column.label, column.label_zh, column.snomed) == ("Age", "年龄", "397669002")
    for wrong in ({"label": {"zh": "年龄"}}, {"label": {"en": "a", "fr": "b"}}, {"snomed": "x"}):
        with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own
            FieldSpec.model_validate({"role": "input", **wrong})
