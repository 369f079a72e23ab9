"""Record fields that are read from events: a number has the unit that its field declares, or none at all."""

from __future__ import annotations

from typing import Any

import pytest

from medmm.columns import Status

HEAD = ("patient_id", "code", "value", "unit", "taken")


def weight(small: Any, unit: str) -> Any:
    others = [(subject, "29463-7", "80", "kg", "2024-02-01") for subject in ("002", "003")]
    small.write("events.csv", HEAD, [("001", "29463-7", "154", unit, "2024-02-01"), *others])
    return small.link().patients[0].sources["records"]["weight"]


@pytest.fixture
def weighed(small: Any) -> Any:
    small.spec["records"] |= {
        "events": {
            "table": "events.csv",
            "columns": {"code": "code", "value": "value", "unit": "unit", "time": "taken"},
        },
        "max_unparsable": 0.99,
    }
    small.spec["records"]["fields"]["weight"] = {
        "role": "input", "kind": "number", "unit": "kg", "event": "29463-7",
    }  # fmt: skip
    return small


@pytest.mark.parametrize(
    ("unit", "value", "status"),
    [("kg", 154.0, Status.KNOWN), ("g", 0.154, Status.KNOWN), ("mmol/L", None, Status.UNPARSABLE)],
)
def test_a_number_is_converted_or_refused(
    weighed: Any, unit: str, value: float | None, status: Status
) -> None:
    found = weight(weighed, unit)
    assert (found.value, found.status) == (pytest.approx(value) if value else None, status)


def test_a_number_without_a_unit_is_one_on_a_person_s_word_only(weighed: Any) -> None:
    assert weight(weighed, "").status is Status.UNPARSABLE
    weighed.spec["records"]["events"]["no_unit"] = {"assume_known": "the scales of this ward weigh in kg"}
    assert weight(weighed, "").value == 154.0
