"""The scale of a quantity: fitted in that of a split's own training patients, told in that of the run.

A network of a quantity gives multiples of a standard deviation. Taken over everybody, it would tell a fit
what the patients have whom it is judged on; taken over each split, the folds' logits would mean different
things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from medmm.arrays import Float64
from medmm.network.heads import Head
from medmm.network.network import Network
from medmm.outcome import Task, columns, width


def scaled(tasks: Sequence[Task], labels: Float64) -> tuple[Task, ...]:
    """Return the outcomes with every quantity in the scale of these patients; the other kinds as they are.

    Args:
        labels: ``[patient]`` or ``[patient, task]``, NaN where not known. Where they do not vary the scale
            stays.
    """
    return tuple(_scaled(task, own) for task, own in zip(tasks, columns(labels).T, strict=True))


@torch.no_grad()
def rescale(network: Network, fitted: Sequence[Task], told: Sequence[Task]) -> None:
    """Let a network that gives its quantities in one scale give the same ones in another, in place.

    Every head ends in a linear layer, and what joins heads is a mean of them.

    Args:
        fitted: the outcomes in the scale of the network's logits.
        told: the same outcomes in the scale that is wanted.
    """
    factor, shift = np.ones(width(told)), np.zeros(width(told))
    for place, (own, wanted) in enumerate(zip(fitted, told, strict=True)):
        if own.kind == "regression":
            at = width(told[:place])
            factor[at] = own.spread / wanted.spread
            shift[at] = (own.centre - wanted.centre) / wanted.spread
    if (factor == 1).all() and (shift == 0).all():
        return
    for head in network.modules():
        if isinstance(head, Head):
            last = head.layers[-1]
            assert isinstance(last, torch.nn.Linear)
            times = torch.from_numpy(factor).to(last.weight)
            last.weight.mul_(times[:, None])
            last.bias.mul_(times).add_(torch.from_numpy(shift).to(last.bias))


def _scaled(task: Task, labels: Float64) -> Task:
    known = labels[np.isfinite(labels)]
    if task.kind != "regression" or not len(known) or np.ptp(known) == 0:
        return task
    return replace(task, centre=float(known.mean()), spread=float(known.std()))
