"""What a run would cost, measured on one step of each network before any is fitted."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from medmm.arrays import Ints
from medmm.fitting.ahead import one_thread
from medmm.fitting.candidates import Problem, stacks
from medmm.fitting.crossval import fits
from medmm.fitting.inputs import Inputs
from medmm.fitting.memory import pages_kept
from medmm.fitting.pretraining.beginning import lesson_for
from medmm.modality import Modality
from medmm.network.fusion import Stack
from medmm.network.network import Network, unimodal
from medmm.recipe import Joint

STEPS = 5
"""Steps that are timed."""


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
class Ahead:
    """What pretraining adds to a run.

    Attributes:
        patients: training patients whom the objective suits, the unlabelled among them.
        seconds_per_step: for one batch, forward and backward, on this machine as it is now.
        times: how often encoders are pretrained, once for each split and each split inside one.
        seconds: of all that.
    """

    patients: int
    seconds_per_step: float
    times: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The cost of a run: an upper bound, since early stopping ends most fits sooner."""

    costs: tuple[Cost, ...]
    ahead: Ahead | None
    networks: int
    seconds: float
    peak_gigabytes: float


def rehearse(problem: Problem, folds: Ints, *, again: int = 0, jobs: int | None = None) -> Rehearsal:
    """Time a few training steps of every modality and add them up over the fits of the run.

    Args:
        again: further cross-validations, each with as many folds.
        jobs: splits that the run fits at a time, each on one thread; None for one on all threads.
    """
    with pages_kept(), nullcontext() if jobs is None else one_thread():
        return _rehearsed(problem, folds, again=again, jobs=jobs or 1)


def _rehearsed(problem: Problem, folds: Ints, *, again: int, jobs: int) -> Rehearsal:
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
    splits = outer * (1 + again) + (recipe.final_model == "refit")
    repeats *= splits
    steps = [np.ceil(cost.patients * share / settings.batch_size) * settings.epochs for cost in costs]
    seconds = sum(cost.seconds_per_step * n * repeats for cost, n in zip(costs, steps, strict=True))
    networks = fits(recipe, len(problem.tables), outer * (1 + again))
    ahead = _ahead(problem, modalities, inputs, share, splits)
    seconds += ahead.seconds if ahead else 0.0
    return Rehearsal(tuple(costs), ahead, networks, float(seconds) / jobs, _peak_gigabytes())


def _ahead(
    problem: Problem, modalities: Mapping[str, Modality], inputs: Inputs, share: float, splits: int
) -> Ahead | None:
    """Time a few steps of pretraining; None where nothing is pretrained within the run."""
    settings = problem.recipe.pretrained_within
    if settings is None:
        return None
    lesson = lesson_for(problem, np.arange(len(problem.labels)), "pretraining", modalities, inputs)
    lesson.learner.train()
    batch = lesson.pool.batch(np.arange(min(settings.batch_size, len(lesson.pool))))
    step = _seconds(lambda: lesson.learner.loss(batch, torch.Generator().manual_seed(0))[0])
    times = splits * (1 + sum(stack.inner_folds for stack in stacks(problem.recipe)))
    labelled = len(lesson.pool.parts[0][1])
    steps = np.ceil((len(lesson.pool) - labelled * (1 - share)) / settings.batch_size) * settings.epochs
    return Ahead(len(lesson.pool), step, times, float(times * steps * step))


def _seconds_per_step(network: Network, values: dict[str, torch.Tensor], present: torch.Tensor) -> float:
    network.train()
    return _seconds(lambda: network(values, present).square().mean())


def _seconds(loss: Callable[[], torch.Tensor]) -> float:
    """Return the time of a step, forward and backward: the median, since others may be at work beside it.

    The first pays for set-up and is left out.
    """
    took = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        loss().backward()  # type: ignore[no-untyped-call]
        took.append(time.perf_counter() - started)
    return median(took[1:])


def _peak_gigabytes() -> float:
    """Return the largest resident memory of this process so far; Linux counts in kB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
