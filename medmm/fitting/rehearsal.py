"""What a run would cost, measured on one step of each network before any is fitted."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from medmm.arrays import Ints
from medmm.fitting.candidates import Problem, stacks
from medmm.fitting.crossval import fits
from medmm.network.fusion import Stack
from medmm.network.network import Network, unimodal
from medmm.recipe import Joint

STEPS = 3
"""Steps that are timed; the first pays for set-up and is left out."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One modality's share of a run.

    Attributes:
        shape: of what its encoder sees of a patient.
        parameters: of the encoder and its head.
        patients: training patients who have it.
        seconds_per_step: for one batch, forward and backward, on this machine as it is now.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    patients: int
    seconds_per_step: float


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The cost of a run: an upper bound, since early stopping ends most fits sooner."""

    costs: tuple[Cost, ...]
    networks: int
    seconds: float
    peak_gigabytes: float


def rehearse(problem: Problem, folds: Ints, *, again: int = 0) -> Rehearsal:
    """Time a few training steps of every modality and add them up over the fits of the run.

    Args:
        again: further cross-validations, each with as many folds.
    """
    everybody = np.arange(len(problem.labels))
    modalities, inputs = problem.fitted(everybody)
    settings, recipe = problem.recipe.fitting, problem.recipe
    costs = []
    for name, modality in modalities.items():
        outputs = problem.outputs
        network = Network({name: unimodal(modality.encoder(), outputs)}, Stack([outputs], outputs))
        have = np.flatnonzero(inputs.prepared[name].row_of >= 0)
        batch = inputs.only([name]).batch(have[: settings.batch_size])
        count = sum(parameter.numel() for parameter in network.parameters())
        costs.append(Cost(name, modality.shape, count, len(have), _seconds_per_step(network, *batch)))
    outer = int(folds.max()) + 1
    share = (outer - 1) / outer
    # An inner fit sees (inner - 1) / inner of the patients; a joint network trains every encoder once more.
    repeats = 1 + sum(stack.inner_folds - 1 for stack in stacks(recipe))
    repeats += sum(isinstance(fusion, Joint) for fusion in recipe.fusions.values())
    repeats *= outer * (1 + again) + (recipe.final_model == "refit")
    steps = [np.ceil(cost.patients * share / settings.batch_size) * settings.epochs for cost in costs]
    seconds = sum(cost.seconds_per_step * n * repeats for cost, n in zip(costs, steps, strict=True))
    networks = fits(recipe, len(problem.tables), outer * (1 + again))
    return Rehearsal(tuple(costs), networks, float(seconds), _peak_gigabytes())


def _seconds_per_step(network: Network, values: dict[str, torch.Tensor], present: torch.Tensor) -> float:
    network.train()
    started = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        network(values, present).square().mean().backward()
    return (time.perf_counter() - started) / STEPS


def _peak_gigabytes() -> float:
    """Return the largest resident memory of this process so far; Linux counts in kB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
