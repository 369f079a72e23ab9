"""Every loss against a small case computed by hand, and what masks and weights do to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from medmm.fitting.losses import Binary, Cox, Hazards, Multiclass, Objective, Ordinal, Regression
from medmm.outcome import Task

ILL = Task("ill")
WARD = Task("ward", "multiclass", classes=("home", "ward", "icu"))
GRADE = Task("grade", "ordinal", classes=("low", "middle", "high"))
STAY = Task("stay", "regression", centre=10.0, spread=4.0)
DEATH = Task("death", "survival", ends=(10.0, 20.0, 30.0))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_a_binary_loss_is_the_weighted_cross_entropy_to_the_last_bit() -> None:
    labels = np.array([1.0, 0, 0, 0, 1, 0, 0])
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = logits.clone().detach().requires_grad_(), logits
    found = Objective((ILL,), labels)(ours, labels)
    weight = torch.tensor(5 / 2, dtype=torch.float32)
    expected = binary_cross_entropy_with_logits(theirs, torch.from_numpy(labels).float(), pos_weight=weight)
    found.backward()
    expected.backward()
    assert torch.equal(found, expected)
    assert torch.equal(ours.grad, theirs.grad)


def test_a_class_weighs_by_how_rare_it_is() -> None:
    labels = np.array([0.0, 0, 1, 2])
    logits = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 1, 1], [0.5, 0, 3]])
    weights = np.array([4 / (3 * 2), 4 / 3, 4 / 3])
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    by_hand = np.mean([-weights[int(k)] * np.log(shares[i, int(k)]) for i, k in enumerate(labels)])
    assert float(Objective((WARD,), labels)(logits, labels)) == pytest.approx(by_hand, rel=1e-6)
    plain = np.mean([-np.log(shares[i, int(k)]) for i, k in enumerate(labels)])
    unweighed = Objective((WARD,), labels, imbalance="none")
    assert float(unweighed(logits, labels)) == pytest.approx(plain, rel=1e-6)


def test_the_focal_loss_turns_to_who_is_predicted_badly() -> None:
    """Lin et al. 2017, equation 4, with γ = 2: (1 - p)^2 times the cross-entropy."""
    logits, labels = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
    p = np.array([sigmoid(2), sigmoid(-1)])
    assert Binary(1.0, 2.0)(logits, labels).numpy() == pytest.approx(-((1 - p) ** 2) * np.log(p), rel=1e-5)
    several = Multiclass((1.0, 1.0), 2.0)(torch.tensor([[0.0, 2.0], [0.0, -1.0]]), torch.ones(2))
    assert several.numpy() == pytest.approx(-((1 - p) ** 2) * np.log(p), rel=1e-5)


def test_levels_are_cut_out_of_one_score() -> None:
    term = Ordinal((0.25, 0.5, 0.25), (1.0, 1.0, 1.0))
    first, second = np.log(0.25 / 0.75), np.log(0.75 / 0.25)
    assert term.thresholds.detach().numpy() == pytest.approx([first, second], rel=1e-5)
    score = 0.7
    above = [sigmoid(score - first), sigmoid(score - second)]
    by_hand = [1 - above[0], above[0] - above[1], above[1]]
    found = term.likelihood(torch.full((3,), score), torch.tensor([0.0, 1, 2]))
    assert found.detach().numpy() == pytest.approx(by_hand, rel=1e-5)
    assert sum(by_hand) == pytest.approx(1)


def test_thresholds_learn_and_never_cross() -> None:
    labels = np.array([0.0, 1, 2, 1, 0, 2])
    objective = Objective((GRADE,), labels)
    optimizer = torch.optim.SGD(objective.parameters(), lr=5.0)
    before = objective.terms[0].thresholds.detach().clone()
    for _ in range(50):
        optimizer.zero_grad()
        objective(torch.zeros(6), labels).backward()
        optimizer.step()
    after = objective.terms[0].thresholds.detach()
    assert (torch.diff(after) > 0).all()
    assert not torch.equal(before, after)


def test_a_quantity_is_compared_in_standard_deviations() -> None:
    found = Regression(10.0, 4.0)(torch.tensor([0.5, -1.0]), torch.tensor([14.0, 6.0]))
    assert found.tolist() == pytest.approx([0.25, 0.0])


def test_hazards_by_hand() -> None:
    """Gensheimer & Narasimhan 2019: intervals outlived, and the one of the event."""
    logits = torch.tensor([[0.3, -0.2, 1.0]]).repeat(4, 1)
    survive = [-np.log(1 - sigmoid(x)) for x in (0.3, -0.2, 1.0)]
    die = [-np.log(sigmoid(x)) for x in (0.3, -0.2, 1.0)]
    # events on day 15 and after the last interval, which is one that was not seen; censored on day 16, beyond
    # the middle of the second interval, and on day 14, before it
    found = Hazards((10.0, 20.0, 30.0))(logits, torch.tensor([15.0, -16.0, -14.0, 31.0]))
    assert found.tolist() == pytest.approx(
        [survive[0] + die[1], survive[0] + survive[1], survive[0], sum(survive)], rel=1e-5
    )


def test_the_partial_likelihood_by_hand() -> None:
    """Katzman et al. 2018, equation 4, the mean over events; patients with one time share the risk set."""
    logits, labels = torch.tensor([0.5, -0.3, 1.2, 0.1]), np.array([2.0, -3.0, 2.0, 5.0])
    everybody = np.log(np.exp([0.5, -0.3, 1.2, 0.1]).sum())
    events = [everybody - 0.5, everybody - 1.2, np.log(np.exp(0.1)) - 0.1]
    found = Objective((Task("death", "cox", ends=(5.0,)),), labels)(logits, labels)
    assert float(found) == pytest.approx(sum(events) / 3, rel=1e-5)
    assert float(Cox()(logits, torch.tensor([-2.0, -3.0, -2.0, -5.0])).sum()) == 0


def test_what_is_not_known_contributes_nothing() -> None:
    labels = np.array([[1.0, np.nan], [0.0, 2.0], [np.nan, 0.0], [np.nan, np.nan]])
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = Objective((ILL, WARD), labels, imbalance="none")(logits, labels)
    loss.backward()
    grad = logits.grad
    assert (grad[0, 1:] == 0).all()
    assert grad[2, 0] == 0
    assert (grad[3] == 0).all()
    ill = binary_cross_entropy_with_logits(logits[:2, 0], torch.tensor([1.0, 0.0]))
    ward = torch.nn.functional.cross_entropy(logits[1:3, 1:], torch.tensor([2, 0]))
    assert loss.item() == pytest.approx(((ill + ward) / 2).item(), rel=1e-5)


def test_outcomes_weigh_what_the_recipe_says() -> None:
    labels = np.array([[1.0, 12.0], [0.0, 9.0]])
    logits = torch.tensor([[0.2, 0.1], [0.4, -0.3]])
    parts = [
        Objective((task,), labels[:, k])(logits[:, k], labels[:, k]) for k, task in enumerate((ILL, STAY))
    ]
    parts = [part.item() for part in parts]
    both = Objective((ILL, STAY), labels, weights={"ill": 3.0, "stay": 1.0})(logits, labels)
    assert float(both) == pytest.approx(0.75 * float(parts[0]) + 0.25 * float(parts[1]), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-30, 30), min_size=3, max_size=3),
    st.sampled_from([ILL, WARD, GRADE, STAY, DEATH]),
    st.booleans(),
)
def test_every_loss_is_finite_and_not_negative(numbers: list[float], task: Task, unknown: bool) -> None:
    labels = {"ward": [0.0, 1, 2], "grade": [0.0, 1, 2], "ill": [0.0, 1, 1], "stay": [3.0, 9, 20]}
    truth = np.array(labels.get(task.name, [5.0, -12.0, 25.0]))
    seen = np.where([unknown, False, False], np.nan, truth)
    logits = torch.tensor(numbers)
    wide = logits if task.outputs == 1 else logits[:, None].repeat(1, task.outputs)
    loss = Objective((task,), truth)(wide, seen).item()
    assert np.isfinite(loss)
    assert loss >= 0
