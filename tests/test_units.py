"""Units are converted by whitelist, exactly, and agree with a general UCUM library where both accept."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmm.errors import DataError
from medmm.units import check_unit, factor

PAIRS = [
    ("ug/L", "ng/mL"),
    ("mg/dL", "g/L"),
    ("10*9/L", "10*3/uL"),
    ("/uL", "10*3/uL"),
    ("U/L", "mU/mL"),
    ("m[iU]/L", "u[iU]/mL"),
    ("mm[Hg]", "kPa"),
    ("d", "h"),
    ("kg/m2", "g/cm2"),
    ("nmol/L", "umol/mL"),
    ("mosm/kg", "osm/kg"),
    ("mL/min/{1.73_m2}", "mL/s/{1.73_m2}"),
    ("%", "1"),
]


@pytest.mark.parametrize(("recorded", "declared"), PAIRS)
def test_agrees_with_a_general_ucum_library(recorded: str, declared: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ucumvert import PintUcumRegistry

        registry = PintUcumRegistry()
    theirs = (1 * registry.from_ucum(recorded)).to(registry.from_ucum(declared)).magnitude
    assert factor(recorded, declared) == pytest.approx(theirs, rel=3e-6)


def test_between_mass_and_substance_stands_the_molar_mass() -> None:
    assert factor("mmol/L", "mg/dL", molar_mass_g_per_mol=180.156) == 18.0156
    assert factor("mg/dL", "umol/L", molar_mass_g_per_mol=113.12) == pytest.approx(88.4017, abs=1e-4)
    with pytest.raises(DataError, match="molar_mass_g_per_mol"):
        factor("mmol/L", "mg/dL")


@pytest.mark.parametrize("unit", ["K/uL", "K", "MMOL/L", "", "ng/mL^2", "mg//L", "mg/", "m g", "iu/L", "²"])
def test_refuses_what_is_not_on_the_whitelist(unit: str) -> None:
    with pytest.raises(DataError, match="not one that medmm knows"):
        factor(unit, "10*3/uL")


@pytest.mark.parametrize(
    ("recorded", "declared"), [("mg/L", "mg"), ("U/L", "[iU]/L"), ("mL/min", "mL/min/{1.73_m2}"), ("a", "kg")]
)
def test_refuses_what_measures_something_else(recorded: str, declared: str) -> None:
    with pytest.raises(DataError, match=r"same thing|normalised differently"):
        factor(recorded, declared)


def test_equal_strings_cost_and_check_nothing() -> None:
    assert factor("anything at all", "anything at all") == 1.0
    check_unit("mg/L")
    with pytest.raises(DataError):
        check_unit("anything at all")


@given(st.sampled_from(PAIRS), st.sampled_from([None, 2.0, 180.156]))
def test_there_and_back_is_one(pair: tuple[str, str], molar: float | None) -> None:
    there = factor(*pair, molar_mass_g_per_mol=molar)
    back = factor(*pair[::-1], molar_mass_g_per_mol=molar)
    assert there * back == pytest.approx(1.0, rel=1e-15)


def test_no_unit_library_is_loaded() -> None:
    code = "import sys, medmm.units as u; u.factor('mmol/L', 'mg/dL', molar_mass_g_per_mol=1.0);"
    code += "sys.exit('pint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
