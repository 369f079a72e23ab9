from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.attribution import sampled
from medmm.attribution.game import Budget, field_attribution, modality_attribution, receipt
from medmm.attribution.sampled import from_draws

from .conftest import drawn, fields

LARGE = 300
"""Members of a reference that no budget below covers."""


def cases(count: int):
    """Return patients who have both tables, each with a model and a reference of their own."""
    seed = 0
    while count:
        model, patient, reference = drawn(seed, LARGE)
        seed += 1
        if patient.present.all():
            count -= 1
            yield model, patient, reference


def test_drawn_shares_are_corrected_to_the_known_sum_by_hand():
    # Two players, three draws; what they divide is 3, 5 and 7, and on average it is known to be 6.
    draws = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    values, errors = from_draws(draws, 6.0)
    # Each player follows the sum with slope 1/2, without remainder: 2 + 0.5 and 3 + 0.5, and no error.
    assert values == pytest.approx([2.5, 3.5])
    assert errors == pytest.approx([0.0, 0.0])
    # An error of the sum itself is divided as the correction is.
    assert from_draws(draws, 6.0, error=0.2)[1] == pytest.approx([0.1, 0.1])
    # Draws that all divide the same share the correction evenly: 2.5 and 2.5 of 6, and 0.5 more for each.
    values, _ = from_draws(np.array([[2.0, 3.0], [3.0, 2.0]]), 6.0)
    assert values == pytest.approx([3.0, 3.0])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([200, 1000]))
def test_whatever_is_drawn_the_shares_add_up(seed: int, runs: int) -> None:
    model, patient, reference = drawn(seed, LARGE)
    budget = Budget(seed=seed, runs=runs)
    shares = modality_attribution(model, patient, reference, outcome="o", budget=budget)
    receipt(shares, shares.logit)
    for name in ("records", "biomarkers"):
        if patient.present[reference.names.index(name)]:
            found = field_attribution(
                model, patient, reference, name, fields(name), outcome="o", budget=budget
            )
            receipt(found, shares.logit)
            assert found.base == shares.base
            own = sum(found.values[: len(fields(name))])
            assert own == pytest.approx(shares.values[reference.names.index(name)], abs=1e-9)


def test_drawn_shares_are_as_far_from_the_exact_ones_as_their_errors_say():
    squares = []
    for model, patient, reference in cases(40):
        for budget in (Budget(seed=len(squares), runs=400),):
            pairs = [
                (
                    modality_attribution(model, patient, reference, outcome="o"),
                    modality_attribution(model, patient, reference, outcome="o", budget=budget),
                ),
                (
                    field_attribution(model, patient, reference, "records", fields("records"), outcome="o"),
                    field_attribution(
                        model, patient, reference, "records", fields("records"), outcome="o", budget=budget
                    ),
                ),
            ]
        for exact, found in pairs:
            errors = np.array(found.errors)
            assert (errors > 0).all()
            squares.append(((np.array(found.values) - np.array(exact.values)) / errors) ** 2)
    assert 0.6 < np.concatenate(squares).mean() < 1.7


def test_more_runs_give_smaller_errors():
    model, patient, reference = next(cases(1))
    few, many = (
        modality_attribution(model, patient, reference, outcome="o", budget=Budget(runs=runs)).errors
        for runs in (200, 1800)
    )
    assert np.mean(many) < 0.6 * np.mean(few)


def test_a_budget_that_covers_every_coalition_is_exact():
    model, patient, reference = drawn(3, 6)
    exact = modality_attribution(model, patient, reference, outcome="o")
    assert modality_attribution(model, patient, reference, outcome="o", budget=Budget(runs=48)) == exact
    assert exact.errors == (0.0, 0.0, 0.0)


def test_runs_in_parts_are_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patient, reference = next(cases(1))
    budget = Budget(runs=300)
    whole = field_attribution(
        model, patient, reference, "records", fields("records"), outcome="o", budget=budget
    )
    monkeypatch.setattr(sampled, "NUMBERS", 64)
    parts = field_attribution(
        model, patient, reference, "records", fields("records"), outcome="o", budget=budget
    )
    assert parts.values == pytest.approx(whole.values, abs=1e-9)


def test_no_more_is_run_than_the_budget_and_the_base():
    model, patient, reference = next(cases(1))
    runs = 0

    class Counting:
        encode = staticmethod(model.encode)

        @staticmethod
        def fuse(embeddings, present):
            nonlocal runs
            runs += len(present)
            return model.fuse(embeddings, present)

    modality_attribution(Counting(), patient, reference, outcome="o", budget=Budget(runs=500))
    assert runs <= 500 + LARGE + 1
