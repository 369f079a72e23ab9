"""One network to fit: on whom, for what, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from medmm.arrays import Float64, Ints
from medmm.fitting.inputs import Inputs
from medmm.network.network import Network
from medmm.outcome import BINARY, Task, columns
from medmm.recipe import Fitting

Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Job:
    """One network to fit, and on whom.

    Attributes:
        name: a path-safe name, unique in the run ("fold0/zones").
        labels: ``[patient]``, or ``[patient, task]`` with NaN where an outcome is not known.
        train: patients whose loss is descended.
        select: patients whose loss chooses the epoch; disjoint from ``train``. Where it is nobody every
            epoch of the schedule runs and the last is kept.
        augment: per modality that is varied, a function of a batch and a generator, applied at training only.
        frozen: modalities whose encoder stays as it is.
        auxiliary: weight of the mean loss of the modalities' own heads.
        modulate: strength of the gradient modulation (:func:`medmm.network.branches.modulate`).
        multipliers: per modality, the learning rate of its encoder relative to ``settings.learning_rate``;
            1 where none is given.
        tasks: the outcomes, in the order of the network's logits and of the columns of ``labels``.
        weights: per outcome, its share of the loss.
    """

    name: str
    network: Network
    inputs: Inputs
    labels: Float64
    train: Ints
    select: Ints
    settings: Fitting
    seed: int
    modality_dropout: float = 0.0
    augment: Mapping[str, Augment] = field(default_factory=dict)
    frozen: Sequence[str] = ()
    auxiliary: float = 0.0
    modulate: float = 0.0
    multipliers: Mapping[str, float] = field(default_factory=dict)
    tasks: Sequence[Task] = (BINARY,)
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.train) // self.settings.batch_size)

    def order(self, epoch: int) -> Ints:
        """Return the patients of one epoch: each once, or as many of every class where that is asked for."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.settings.imbalance != "balanced":
            return rng.permutation(self.train)
        groups = self.tasks[0].strata(columns(self.labels)[self.train, 0])
        _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        share = 1.0 / (len(counts) * counts[inverse])
        return np.asarray(rng.choice(self.train, size=len(self.train), p=share / share.sum()))
