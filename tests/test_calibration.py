from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmm.calibration import Platt, flat_told, sigmoid
from medmm.errors import BundleError

FINITE = st.floats(-50, 50)


@given(slope=st.floats(0, 20), intercept=FINITE, logit=FINITE)
def test_a_platt_map_survives_json_bit_for_bit(slope: float, intercept: float, logit: float) -> None:
    platt = Platt(slope, intercept)
    again = Platt.from_json(json.loads(json.dumps(platt.to_json())))
    assert again == platt
    assert again.apply(logit) == slope * logit + intercept


@given(slope=st.floats(0, 20), intercept=FINITE, logits=st.lists(FINITE, min_size=2, max_size=10))
def test_calibration_keeps_the_ranking_and_gives_a_risk(
    slope: float, intercept: float, logits: list[float]
) -> None:
    risk = Platt(slope, intercept).probability(np.sort(np.array(logits)))
    assert np.all(np.diff(risk) >= 0)
    assert np.all((risk >= 0) & (risk <= 1))


@given(logit=FINITE)
def test_sigmoid_agrees_with_its_definition_and_is_symmetric(logit: float) -> None:
    assert sigmoid(logit) == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-12)
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1, rel=1e-12)


def test_sigmoid_of_extreme_logits_does_not_overflow() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([-1e6, 1e6])), [0.0, 1.0])


@pytest.mark.parametrize("slope", [-0.1, math.nan, math.inf])
def test_a_map_that_would_turn_the_ranking_is_refused(slope: float) -> None:
    with pytest.raises(ValueError, match="slope"):
        Platt(slope, 0.0)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"method": "isotonic", "slope": 1.0, "intercept": 0.0},
        {"method": "platt", "slope": "1", "intercept": 0.0},
        {"method": "platt", "slope": True, "intercept": 0.0},
        {"method": "platt", "slope": -1.0, "intercept": 0.0},
        {"method": "platt", "slope": math.nan, "intercept": 0.0},
        {"method": "platt", "slope": 1.0, "intercept": 0.0, "more": 1},
    ],
)
def test_a_damaged_calibration_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="calibration"):
        Platt.from_json(values)


def test_a_slope_of_zero_is_told_as_what_it_means() -> None:
    told = flat_told({"ill": Platt(0.0, -1.0), "stay": Platt(0.5, 0.0)})
    assert len(told) == 1
    assert told[0].startswith("ill: ")
    assert "gives all of them the same" in told[0]
