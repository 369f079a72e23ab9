from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.columns import MISSING, ResultSpec
from medmm.errors import BundleError, ConfigError, DataError, FittingError
from medmm.modalities.sequences import SequenceSettings
from medmm.modalities.series import Series, SeriesSettings
from medmm.modality import Stacked, present, restored
from medmm.sample import Absence, TimedSeries

RESULTS = {
    "crp": ResultSpec(role="input", code="1", unit="mg/L", scale="log", label="CRP", series=True),
    "hb": ResultSpec(role="input", code="2", unit="g/dL", series=True, reference=(12, 17)),
    "age": ResultSpec(role="input", code="3"),
}
LENGTH = 3
NAMES = ("crp", "hb")


def series(length: int = LENGTH) -> Series:
    return Series("series", SeriesSettings(length=length), RESULTS)


def course(*entries: tuple[float, int, float], comparator: str = "") -> TimedSeries:
    """Return a course of (offset in days, code, value)."""
    ordered = sorted(entries, key=lambda entry: entry[:2])
    offsets, codes, values = zip(*ordered, strict=True) if ordered else ((), (), ())
    return TimedSeries(NAMES, offsets, codes, values, (comparator,) * len(ordered))


entries = st.lists(
    st.tuples(st.floats(-4000, 0), st.integers(0, 1), st.floats(-1e4, 1e4)),
    max_size=8,
    unique_by=lambda e: e[:2],
)
courses = entries.map(lambda found: course(*found))
TRAIN = [course((-9 - i, 0, 10.0 + i), (-3, 0, 20.0 + 2 * i), (-2, 1, 12.0 + i)) for i in range(6)]


def slots(row: np.ndarray, code: int) -> tuple[list[float], list[float], list[float], float]:
    own = row[code * (3 * LENGTH + 1) : (code + 1) * (3 * LENGTH + 1)].tolist()
    return own[:LENGTH], own[LENGTH : 2 * LENGTH], own[2 * LENGTH : -1], own[-1]


def test_a_course_becomes_slots_per_code_newest_first() -> None:
    fitted = series().fit(TRAIN)
    row = fitted.transform(course((-8, 0, 12), (-2, 0, 30), (-1, 1, 14.5)))
    assert row.dtype == np.float32
    assert row.shape == fitted.shape == (2 * (3 * LENGTH + 1),)
    value, age, known, missing = slots(row, 0)
    assert known == [1, 1, 0]
    assert missing == 0
    assert age == pytest.approx([math.log(3), math.log(9), 0])
    assert value[0] > value[1]
    every = [12.0 + i for i in range(6)]
    assert slots(row, 1)[0] == pytest.approx([(14.5 - np.mean(every)) / np.std(every), 0, 0])


def test_only_the_newest_results_are_taken() -> None:
    fitted = series().fit(TRAIN)
    many = [(-float(day), 0, 10.0 + day) for day in range(1, 10)]
    assert np.array_equal(fitted.transform(course(*many)), fitted.transform(course(*many[:LENGTH])))


def test_a_code_is_one_player_and_the_players_own_every_column() -> None:
    fitted = series().fit(TRAIN)
    crp, hb = fitted.players()
    assert sorted(crp.columns + hb.columns) == list(range(fitted.shape[0]))
    assert (crp.name, crp.label, hb.unit, hb.reference) == ("crp", "CRP", "g/dL", (12, 17))
    row = fitted.transform(course((-1, 1, 13.0)))
    assert row[crp.missing_column] == 1
    assert row[hb.missing_column] == 0
    assert present(fitted.players(), row)
    assert not present(fitted.players(), fitted.transform(course()))


@given(st.lists(courses, min_size=1, max_size=8), courses, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_it_is_finite_and_no_order_of_patients_shows(
    train: list[TimedSeries], patient: TimedSeries, chance: random.Random
) -> None:
    shuffled = list(train)
    chance.shuffle(shuffled)
    one, other = series().fit(train), series().fit(shuffled)
    assert one.state() == other.state()
    row = one.transform(patient)
    assert np.isfinite(row).all()
    again = restored(series(), json.loads(json.dumps(one.state())))
    assert np.array_equal(again.transform(patient), row)


@given(entries, st.floats(0, 10), st.integers(0, 1))
@settings(max_examples=40, deadline=None)
def test_one_code_never_moves_the_columns_of_another(
    found: list[tuple[float, int, float]], value: float, code: int
) -> None:
    fitted = series().fit(TRAIN)
    changed = [(day, c, value if c == code else v) for day, c, v in found]
    before, after = fitted.transform(course(*found)), fitted.transform(course(*changed))
    other = list(fitted.players()[1 - code].columns)
    assert np.array_equal(before[other], after[other])


def test_the_stored_range_is_not_that_of_one_patient_with_many_results() -> None:
    many = course(*[(-float(day), 0, 1000.0 + day) for day in range(1, 60)])
    state = series().fit([*TRAIN, many]).state()["codes"]["crp"]
    assert (state["low"], state["high"]) == (10.0, 2000.0)


def test_what_is_unusual_is_said_by_label() -> None:
    fitted = series().fit(TRAIN)
    assert fitted.warnings(TRAIN[0]) == ()
    assert fitted.warnings(course((-1, 0, 9000.0))) == (
        "CRP: outside the usual range of the training patients",
    )


def test_a_constant_code_is_zero_and_one_that_training_never_knew_stays_missing() -> None:
    fitted = series().fit([course((-1, 0, 5.0)), course((-2, 0, 5.0))])
    row = fitted.transform(course((-1, 0, 99.0), (-1, 1, 3.0)))
    assert slots(row, 0)[0] == [0, 0, 0]
    assert slots(row, 1)[3] == 1


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="`series: true`"):
        Series("series", SeriesSettings(), {"age": RESULTS["age"]})
    with pytest.raises(ConfigError, match="smaller `length`"):
        series(length=300)
    with pytest.raises(FittingError, match="no training patient"):
        series().fit([])
    with pytest.raises(FittingError, match="has to be fitted"):
        series().transform(TRAIN[0])
    with pytest.raises(DataError, match="reads timed results"):
        series().load({"crp": MISSING})
    with pytest.raises(DataError, match="lacks the declared result 'hb'"):
        series().fit(TRAIN).transform(TimedSeries(("crp",), (), (), (), ()))
    with pytest.raises(BundleError, match="cannot be used"):
        series().restore({"codes": {"crp": {}}})
    with pytest.raises(DataError):
        series().load(Absence("no_results"))
    with pytest.raises(ValueError, match="divide its `width`"):
        SequenceSettings(kind="transformer", width=30, heads=4)


def test_folds_fitted_apart_stand_side_by_side() -> None:
    one, other = series().fit(TRAIN[:3]), series().fit(TRAIN[3:])
    both = Stacked([one, other])
    row = both.transform(TRAIN[0])
    assert np.array_equal(row, np.concatenate([one.transform(TRAIN[0]), other.transform(TRAIN[0])]))
    assert len(both.players()[0].columns) == 2 * len(one.players()[0].columns)


@given(courses, courses, st.integers(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_row_that_mixes_two_patients_is_the_course_of_their_codes(
    one: TimedSeries, other: TimedSeries, code: int
) -> None:
    """What a coalition of the field game looks at is again a course: that makes its Shapley values exact."""
    fitted = series().fit(TRAIN)
    own = list(fitted.players()[code].columns)
    mixed = fitted.transform(other)
    mixed[own] = fitted.transform(one)[own]

    def of(source: TimedSeries, *, same: bool) -> list[tuple[float, int, float]]:
        every = zip(source.offset_days, source.code, source.value, strict=True)
        return [(day, c, value) for day, c, value in every if (c == code) == same]

    assert np.array_equal(fitted.transform(course(*of(one, same=True), *of(other, same=False))), mixed)
