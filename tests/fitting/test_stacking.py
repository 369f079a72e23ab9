from __future__ import annotations

import numpy as np
import pytest
import torch

from medmm.calibration import Platt
from medmm.fitting.stacking import fit_stack


def problem(seed: int = 0):
    """Two bases; the second is absent for a third of the patients."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=400)
    labels = (rng.random(400) < 1 / (1 + np.exp(-2 * truth))).astype(float)
    first, second = truth + rng.normal(size=400), truth + rng.normal(size=400)
    second[rng.random(400) < 0.33] = np.nan
    return {"ct": first, "records": second}, labels


def test_the_network_gives_the_logit_of_the_formula():
    logits, labels = problem()
    calibrations = [Platt(0.8, 0.1), Platt(1.3, -0.2)]
    stack = fit_stack(logits, calibrations, labels, l2=1.0)
    known = np.stack([np.isfinite(values) for values in logits.values()], axis=1)
    bases = [np.nan_to_num(values)[:, None] for values in logits.values()]
    found = stack(
        [torch.tensor(b, dtype=torch.float32) for b in bases], torch.tensor(known, dtype=torch.float32)
    )
    expected = float(stack.intercept) + sum(
        known[:, k]
        * (float(stack.weight[k]) * calibrations[k].apply(bases[k][:, 0]) + float(stack.presence_weight[k]))
        for k in range(2)
    )
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_two_bases_rank_better_than_one():
    logits, labels = problem()
    both = fit_stack(logits, [Platt(1, 0), Platt(1, 0)], labels, l2=1.0)
    assert (both.weight > 0).all()


def test_a_strong_penalty_adds_the_calibrated_logits_up():
    logits, labels = problem()
    stack = fit_stack(logits, [Platt(1, 0), Platt(1, 0)], labels, l2=1e6)
    assert stack.weight.tolist() == pytest.approx([1, 1], abs=1e-3)
    assert stack.presence_weight.tolist() == pytest.approx([0, 0], abs=1e-3)


def test_a_weak_penalty_is_unpenalised_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    logits, labels = problem()
    logits = {name: np.nan_to_num(values) for name, values in logits.items()}
    stack = fit_stack(logits, [Platt(1, 0), Platt(1, 0)], labels, l2=1e-6)
    design = np.stack([*logits.values()], axis=1)
    expected = LogisticRegression(C=1e9, max_iter=2000).fit(design, labels).coef_[0]
    assert stack.weight.tolist() == pytest.approx(expected.tolist(), abs=1e-2)


def test_a_base_is_never_turned_around():
    logits, labels = problem()
    stack = fit_stack({name: -values for name, values in logits.items()}, [Platt(1, 0)] * 2, labels, l2=0.01)
    assert stack.weight.tolist() == [0, 0]
