"""One recorded cell, read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmm.cohort.values import Number, parse_number, read_field, read_number
from medmm.columns import FieldSpec, Status


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("<0.01", Number(0.01, "<")),
        (">90", Number(90.0, ">")),
        (">=90", Number(90.0, ">=")),
        ("≤ 5", Number(5.0, "<=")),
        ("1,234", Number(1234.0)),
        ("1,234,567.5", Number(1234567.5)),
        ("5.0 H", Number(5.0, "", "H")),
        ("5.0 (L)", Number(5.0, "", "L")),
        ("-3", Number(-3.0)),
        (".5", Number(0.5)),
        ("1e3", Number(1000.0)),
        ("inf", Number(None, ">")),
        ("-INF", Number(None, "<")),
    ],
)
def test_reads_what_laboratories_write(text: str, number: Number) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "12,34",
        "1,5",
        "1.2.3",
        "5 mg",
        "0x10",
        "1_000",
        "٣",
        "age<16",
        "e3",
        ".e5",
        "1e999",
        "--1",
        "<",
    ],
)
def test_does_not_guess(text: str) -> None:
    assert parse_number(text) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_to_the_bit(value: float) -> None:
    found = parse_number(repr(value))
    assert found is not None
    assert found.value is not None
    assert math.copysign(1, found.value) == math.copysign(1, value)
    assert found.value == value


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    found = parse_number(text)
    assert found is None or found.value is None or math.isfinite(found.value)
    value = read_number(text, (0, 1))
    assert (value.value is not None) == (value.status is Status.KNOWN)


@pytest.mark.parametrize(
    ("field", "text", "status"),
    [
        (FieldSpec(role="input", kind="ordinal", levels=("low", "high")), "high", Status.KNOWN),
        (FieldSpec(role="input", kind="ordinal", levels=("low", "high")), "middle", Status.UNPARSABLE),
        (FieldSpec(role="input", kind="flag"), "Yes", Status.KNOWN),
        (FieldSpec(role="input", kind="flag"), "perhaps", Status.UNPARSABLE),
        (FieldSpec(role="input", kind="category", missing_codes=("unknown",)), "unknown", Status.MISSING),
        (FieldSpec(role="input", kind="category"), " m ", Status.KNOWN),
        (FieldSpec(role="input", kind="number", plausible=(0, 10)), "11", Status.IMPLAUSIBLE),
        (FieldSpec(role="input", kind="number"), None, Status.MISSING),
    ],
)
def test_a_field_is_read_as_declared(field: FieldSpec, text: str | None, status: Status) -> None:
    assert read_field(text, field).status is status
