from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from medmm.errors import DataError
from medmm.evaluation.decisions import TREAT_ALL, net_benefit, threshold_table

SEEDS = st.integers(0, 2**32 - 1)


def cohort(seed: int, patients: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    risks = rng.random(patients)
    labels = rng.random(patients) < risks
    labels[:2] = [True, False]
    return labels, risks


@given(seed=SEEDS, threshold=st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None)
def test_a_row_is_the_counts_with_wilsons_intervals(seed: int, threshold: float) -> None:
    labels, risks = cohort(seed)
    (row,) = threshold_table(labels, risks, [threshold])
    positive = risks >= threshold
    cells = {
        "sensitivity": (positive & labels, labels),
        "specificity": (~positive & ~labels, ~labels),
        "ppv": (positive & labels, positive),
        "npv": (~positive & ~labels, ~positive),
    }
    for name, (part, whole) in cells.items():
        found = getattr(row, name)
        if not whole.any():
            assert found is None
            continue
        oracle = binomtest(int(part.sum()), int(whole.sum())).proportion_ci(method="wilson")
        assert found.value == part.sum() / whole.sum()
        np.testing.assert_allclose([found.lower, found.upper], [oracle.low, oracle.high], atol=1e-9)
    assert row.above_per_100 == pytest.approx(100 * positive.mean())


@given(seed=SEEDS)
@settings(max_examples=20)
def test_a_higher_threshold_finds_no_more(seed: int) -> None:
    rows = threshold_table(*cohort(seed), list(np.linspace(0.05, 0.95, 10)))
    assert np.all(np.diff([row.sensitivity.value for row in rows]) <= 0)
    assert np.all(np.diff([row.specificity.value for row in rows]) >= 0)


def test_net_benefit_is_the_published_formula() -> None:
    labels = np.array([1, 1, 0, 0, 0])
    risks = np.array([0.9, 0.3, 0.8, 0.2, 0.1])
    found = net_benefit(labels, {"model": risks}, [0.25])
    assert found["model"][0] == pytest.approx(2 / 5 - 1 / 5 * (0.25 / 0.75))
    assert found[TREAT_ALL][0] == pytest.approx(2 / 5 - 3 / 5 * (0.25 / 0.75))


@given(seed=SEEDS)
@settings(max_examples=20)
def test_net_benefit_of_limits(seed: int) -> None:
    labels, risks = cohort(seed)
    thresholds = [0.05, 0.3, 0.6]
    everybody, nobody, oracle = np.ones(80), np.zeros(80), labels.astype(float)
    found = net_benefit(labels, {"all": everybody, "none": nobody, "oracle": oracle, "m": risks}, thresholds)
    np.testing.assert_allclose(found["all"], found[TREAT_ALL])
    np.testing.assert_array_equal(found["none"], 0)
    np.testing.assert_allclose(found["oracle"], labels.mean())
    assert np.all(found["m"] <= labels.mean() + 1e-12)


@pytest.mark.parametrize(
    ("risks", "thresholds", "says"),
    [([0.2, 1.4], [0.5], "no risk"), ([0.2, 0.4], [0.0], "above 0"), ([0.2, 0.4], [1.0], "below 1")],
)
def test_what_is_no_risk_is_refused(risks: list[float], thresholds: list[float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        threshold_table([0, 1], risks, thresholds)
    with pytest.raises(DataError, match=says):
        net_benefit([0, 1], {"model": risks}, thresholds)
