from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medmm.fitting.candidates import fit_split
from medmm.fitting.scaling import rescale, scaled
from medmm.network.fusion import FUSIONS, LATE, fusion
from medmm.network.network import Network, bare
from medmm.outcome import Task
from tests.fitting.pretraining.small_pretraining import problem, recipe

OVER_MAPS = {"film", "daft", "tab_cross_attn"}
"""They end in a head as the others do, and read a feature map."""

TRAIN, TEST = np.arange(48), np.arange(48, 64)


def quantity(labels: np.ndarray) -> Task:
    return Task("dose", "regression", centre=float(labels.mean()), spread=float(labels.std()))


@pytest.mark.parametrize("kind", ["concat", "late_mean"])
def test_what_the_scored_patients_have_changes_nothing_of_a_fit(tmp_path, kind) -> None:
    """The scale that is told in takes everybody; the quantities and the encoders' bits are the same."""
    asked = recipe(fusion={"kind": kind}, pretraining=None, fitting={"epochs": 3})
    first = problem(tmp_path / "a", asked)
    rng = np.random.default_rng(0)
    labels = 50 + 20 * first.labels + rng.normal(size=64)
    other = labels.copy()
    other[TEST] = 1000 * rng.normal(size=16)
    found, weights = [], []
    for name, own in (("a", labels), ("b", other)):
        task = quantity(own)
        given = replace(first, labels=own, tasks=(task,), work=tmp_path / name)
        split = fit_split(given, TRAIN, TEST, "fold0", only=["records", "fused"])
        found.append({model: task.centre + task.spread * z for model, z in split.logits.items()})
        weights.append(bare(split.networks["fused"].encoders["ct"]).state_dict())
    for model, values in found[0].items():
        assert np.nanmax(np.abs(values - found[1][model])) < 0.01
    assert np.nanstd(found[0]["records"]) > 0.1
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_a_scale_is_that_of_whose_labels_are_given() -> None:
    labels = np.array([[1.0, 0.0], [3.0, np.nan], [np.nan, 1.0]])
    tasks = (Task("dose", "regression", centre=9.0, spread=4.0), Task("event"))
    dose, event = scaled(tasks, labels)
    assert (dose.centre, dose.spread, event) == (2.0, 1.0, tasks[1])
    assert scaled(tasks, labels[:1]) == tasks  # a single label has no spread


@pytest.mark.parametrize("kind", sorted(set(FUSIONS) - LATE - OVER_MAPS))
def test_a_rescaled_network_tells_the_same_quantity(kind) -> None:
    torch.manual_seed(0)
    encoders = {"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(2, 4)}
    network = Network(encoders, fusion(kind, [4, 4], outputs=2)).eval()
    inputs, present = {"a": torch.randn(6, 3), "b": torch.randn(6, 2)}, torch.ones(6, 2)
    own = (Task("event"), Task("dose", "regression", centre=5.0, spread=2.0))
    wanted = (Task("event"), Task("dose", "regression", centre=7.0, spread=0.5))
    before = network(inputs, present)
    rescale(network, own, wanted)
    after = network(inputs, present)
    assert torch.equal(before[:, 0], after[:, 0])
    assert torch.allclose(7 + 0.5 * after[:, 1], 5 + 2 * before[:, 1], atol=1e-5)
