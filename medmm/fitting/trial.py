"""A trial before the first epoch: what would end a fit an hour later ends it now."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting.job import Job
from medmm.fitting.losses import Objective
from medmm.fitting.memory import ran_out
from medmm.fitting.predicting import placed
from medmm.fitting.processes import Processes
from medmm.fitting.steps import ALONE, lonely, undivided

ALIKE = 0.7
"""Least cosine between the gradients in bfloat16 and in float32: rounding alone leaves 0.99 in an encoder of
images, and kernels that are wrong in bfloat16, which oneDNN has for some small maps, 0.2."""

FEWEST = 2
"""Patients that a Cox loss or a batch norm needs in a batch."""


def trial(job: Job, fitted: nn.Module, objective: Objective, ours: Processes) -> None:
    """Run one batch without dropout and augmentation; neither weights nor random streams move.

    Raises:
        FittingError: if a batch cannot be cut as asked, is of one patient where more are needed, or the loss
            of the first one is not finite, or bfloat16 turns its gradient elsewhere.
    """
    _check_cut(job, fitted, objective, ours)
    _check_size(job, fitted, objective)
    first = job.order(0)[: min(job.settings.batch_size, job.settings.micro_batch or len(job.train))]
    try:
        _check_loss(job, objective, first, ours)
        if job.settings.precision == "bf16":
            _check_half(job, objective, first, ours)
    except ValueError as error:
        if ALONE not in str(error):
            raise
        raise lonely(job) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, FittingError) or not ran_out(error):
            raise  # a step finds a smaller batch


def _check_cut(job: Job, fitted: nn.Module, objective: Objective, ours: Processes) -> None:
    micro = job.settings.micro_batch
    cut = ours.count > 1 or (micro is not None and micro < min(job.settings.batch_size, len(job.train)))
    why = undivided(fitted, objective) if cut else ""
    if why:
        told = f"{ours.count} processes" if ours.count > 1 else "fitting.micro_batch"
        raise FittingError(f"{job.name}: {told} would cut a batch, and {why}; fit it whole, in one process")


def _check_size(job: Job, fitted: nn.Module, objective: Objective) -> None:
    smallest = len(job.train) // max(job.batches, 1)
    if smallest >= FEWEST:
        return
    why = undivided(fitted, objective)
    if why:
        raise FittingError(f"{job.name}: a batch is of one patient, and {why}; raise fitting.batch_size")


@torch.no_grad()
def _check_loss(job: Job, objective: Objective, patients: Ints, ours: Processes) -> None:
    values, present = job.inputs.batch(patients)
    for name, tensor in values.items():
        if not torch.isfinite(tensor).all():
            raise FittingError(
                f"{job.name}: the loss is not finite before the first epoch, since {name} holds values that"
                " are not; look for them with `medmm cohort check`"
            )
    network = job.network
    training = network.training
    network.eval()
    present = present.to(ours.device)
    with torch.random.fork_rng(devices=[]), ours.autocast():
        embedded = network.embed({n: placed(x, ours.device) for n, x in values.items()}, present)
        logits = network.fuse(embedded, present)
    network.train(training)
    loss = float(objective(logits.float(), job.labels[patients]))
    if math.isfinite(loss):
        return
    culprits = [name for name in network.names if not torch.isfinite(embedded[name]).all()]
    what = f"the encoder of {culprits[0]} gives" if culprits else "the fusion gives"
    raise FittingError(
        f"{job.name}: the loss is not finite before the first epoch, since {what} values that are not; look"
        " at its pretrained weights, and for extreme values with `medmm cohort check`"
    )


def _check_half(job: Job, objective: Objective, patients: Ints, ours: Processes) -> None:
    network = job.network
    training = network.training
    network.eval()
    with torch.random.fork_rng(devices=[]):
        half = _gradient(job, objective, patients, ours, ours.autocast())
        whole = _gradient(job, objective, patients, ours, nullcontext())
    network.train(training)
    alike = float(nn.functional.cosine_similarity(half, whole, dim=0))
    if not alike >= ALIKE:  # of NaN too
        raise FittingError(
            f"{job.name}: the gradient of the first batch points elsewhere in bfloat16 than in float32"
            f" (cosine {alike:.2f}, at least {ALIKE} wanted); take fitting.precision float32, or another size"
            " of image"
        )


def _gradient(
    job: Job, objective: Objective, patients: Ints, ours: Processes, precision: AbstractContextManager[Any]
) -> torch.Tensor:
    """Return the gradient of the patients' loss by the network's weights, as one vector in float32."""
    values, present = job.inputs.batch(patients)
    present = present.to(ours.device)
    with precision:
        embedded = job.network.embed({n: placed(x, ours.device) for n, x in values.items()}, present)
        logits = job.network.fuse(embedded, present)
    weights = [weight for weight in job.network.parameters() if weight.requires_grad]
    found = torch.autograd.grad(objective(logits.float(), job.labels[patients]), weights, allow_unused=True)
    return torch.cat([one.float().flatten() for one in found if one is not None])
