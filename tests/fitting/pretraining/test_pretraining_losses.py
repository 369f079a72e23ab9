from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medmm.fitting.pretraining.losses import hidden_fields, info_nce, nt_xent, retrieved
from medmm.modalities.fields import Column
from medmm.modalities.tables import Entry

ALONG, ACROSS, DIAGONAL = [3.0, 0.0], [0.0, 2.0], [1.0, 1.0]


def test_info_nce_of_two_patients_by_hand() -> None:
    """Cosines: patient 1 (1, √½), patient 2 (0, √½); rows are images, columns tables; temperature ½."""
    images, tables = torch.tensor([ALONG, ACROSS]), torch.tensor([ALONG, DIAGONAL])
    s, t = math.sqrt(0.5), 0.5
    e = math.exp
    by_image = [e(1 / t) / (e(1 / t) + e(s / t)), e(s / t) / (e(0) + e(s / t))]
    by_table = [e(1 / t) / (e(1 / t) + e(0)), e(s / t) / (e(s / t) + e(s / t))]
    expected = -0.25 * sum(math.log(share) for share in (*by_image, *by_table))
    assert float(info_nce(images, tables, t)) == pytest.approx(expected, abs=1e-6)


def test_nt_xent_of_two_images_by_numpy() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 2, 3))
    both = np.concatenate([first, second])
    unit = both / np.linalg.norm(both, axis=1, keepdims=True)
    similar = np.exp(unit @ unit.T / 0.1)
    losses = []
    for own, other in ((0, 2), (1, 3), (2, 0), (3, 1)):
        candidates = [k for k in range(4) if k != own]
        losses.append(-math.log(similar[own, other] / similar[own, candidates].sum()))
    found = nt_xent(torch.from_numpy(first), torch.from_numpy(second), 0.1)
    assert float(found) == pytest.approx(np.mean(losses), abs=1e-9)


def test_hidden_fields_by_hand() -> None:
    """A number (column 0), a category (2, 3) and a flag (5), each with its missing indicator after it."""
    entries = [
        Entry(Column("age", "age", "number", "Age"), (0,), 1, (0.0,)),
        Entry(Column("unit", "unit", "category", "Unit"), (2, 3), 4, (0.0, 0.0)),
        Entry(Column("fever", "fever", "flag", "Fever"), (5,), 6, (0.5,)),
    ]
    rows = torch.tensor([[1.5, 0, 1, 0, 0, 1, 0], [0.5, 1, 0, 1, 0, 0, 0.0]])  # the second age was missing
    predicted = torch.tensor([[1.0, 9, 2, 1, 9, 0, 9], [9.0, 9, 3, 3, 9, 1, 9]])
    hidden = torch.tensor([[True] * 7, [True, True, True, True, True, False, False]])
    number = (1.5 - 1.0) ** 2
    category = -math.log(math.exp(2) / (math.exp(2) + math.exp(1))) - math.log(0.5)
    flag = -math.log(0.5)
    total, counted = hidden_fields(predicted, rows, hidden, entries)
    assert counted == 4
    assert float(total) == pytest.approx(number + category + flag, abs=1e-6)


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_the_order_of_the_batch_leaves_the_loss_alike(loss) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    for _ in range(5):
        order = torch.randperm(9, generator=generator)
        assert float(loss(first[order], second[order], 0.2)) == pytest.approx(
            float(loss(first, second, 0.2)), abs=1e-12
        )
        assert float(loss(3 * first, second, 0.2)) == pytest.approx(float(loss(first, second, 0.2)), abs=1e-9)


def test_halves_that_are_alike_find_each_other() -> None:
    vectors = torch.eye(4)
    assert retrieved(vectors, vectors) == 1
    assert retrieved(vectors, vectors.roll(1, 0)) == 0
    assert float(info_nce(vectors, vectors, 0.01)) < 1e-6 < float(info_nce(vectors, vectors.roll(1, 0), 0.01))
