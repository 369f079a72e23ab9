"""Numbers as a reader meets them."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medmm.report import wording
from medmm.report.checklist import CLAIM_2024, TRIPOD_AI, checklists

VALUES = st.lists(st.floats(-20, 20), min_size=1, max_size=30)


@given(VALUES)
@example([0.025])
def test_printed_parts_add_up_to_the_printed_whole_and_stay_next_to_their_value(values: list[float]) -> None:
    total = math.fsum(values)
    printed = wording.adding_up(values, total)
    assert math.fsum(printed) == pytest.approx(round(total, 2), abs=1e-9)
    assert all(abs(shown - value) <= 0.01 + 1e-9 for shown, value in zip(printed, values, strict=True))


@given(st.floats(0, 1))
def test_no_risk_is_finer_than_one_of_100_or_certain(risk: float) -> None:
    said = wording.count_of_100(risk)
    assert said in {"fewer than 1", "more than 99", *map(str, range(1, 100))}


@given(st.text())
def test_no_text_reorders_or_controls_what_follows_it(text: str) -> None:
    printed = wording.plain(text)
    assert len(printed) == len(text)
    printed.encode("utf-8")
    assert not set(printed) & set("\x00\x1b\u202a\u202e\u2066\u2069")


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("ng/mL", "ng/mL"),
        ("ng/mL2", "ng/mL²"),
        ("cm3", "cm³"),
        ("10*9/L", "10⁹/L"),
        ("a", "years"),
        ("ug/L", "µg/L"),
    ],
)
def test_units_read_as_people_write_them(unit: str, said: str) -> None:
    assert wording.unit_text(unit) == said


def test_a_missing_value_has_no_unit() -> None:
    assert wording.with_unit(wording.NOT_RECORDED, "ng/mL") == "not recorded"


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2026-03-02T09:41:59+00:00", "2026-03-02 09:41 UTC"),
        ("2026-03-02T00:30:00+02:00", "2026-03-01 22:30 UTC"),
        ("2026-03-02T09:41:00", "2026-03-02 09:41 UTC"),
    ],
)
def test_times_are_told_to_the_minute_in_utc(time: str, said: str) -> None:
    assert wording.moment(time) == said


def test_the_checklists_hold_every_item_once() -> None:
    claim = [number for number, *_ in CLAIM_2024]
    assert claim == [str(number) for number in range(1, 45)]
    tripod = [number for number, *_ in TRIPOD_AI]
    assert len(tripod) == len(set(tripod)) == 52
    assert {int(number.rstrip("abcdefg")) for number in tripod} == set(range(1, 28))


def test_an_item_says_what_is_known_and_leaves_the_rest_open() -> None:
    tripod, claim = checklists(
        {"flow": "Who is in it"}, {"CLAIM 2024 7": "registry", "TRIPOD+AI 20a": "figure 1"}
    )
    said = {line.number: line.answer for line in claim.lines}
    assert (said["7"], said["35"], said["44"]) == ("registry", "Who is in it", "")
    assert next(line.answer for line in tripod.lines if line.number == "20a") == "figure 1"
    assert claim.filled == 2


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (None, "–"),
        (0.0, "same day"),
        (-1e-9, "1 minute before"),
        (-11 / 1440, "11 minutes before"),
        (-1 / 24, "1 hour before"),
        (-0.5, "12 hours before"),
        (-3.0, "3 days before"),
        (2.0, "2 days after"),
    ],
)
def test_a_time_is_told_in_the_unit_that_suits_it(days: float | None, told: str) -> None:
    assert wording.when(days) == told
