"""The loop of pretraining: a learner, descended on a pool of patients, and nothing else.

It is not the loop of :mod:`medmm.fitting.loop`, which knows labels, fusions and select patients; but as there
every random stream comes from (seed, epoch) or (seed, step), so that a stopped run ends in the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting import checkpoint
from medmm.fitting.checkpoint import Begun, History
from medmm.fitting.loop import CHECKPOINT, CHECKPOINT_SECONDS, WARMUP_SHARE, OnEpoch
from medmm.fitting.memory import pages_kept, refused
from medmm.fitting.pretraining.learners import FEWEST, Learner
from medmm.fitting.pretraining.pool import Pool
from medmm.fitting.processes import leader_first, leads, processes

DONE = "pretrained.safetensors"
"""Not the name of a fit's file, so that nobody counts it as one."""

Weights = Mapping[str, Mapping[str, Tensor]]
"""An encoder's tensors, by modality."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One learner to pretrain, and on whom.

    Attributes:
        name: a path-safe name, unique in the run ("fold0/pretraining").
        pool: patients whom the objective suits, all of the training split.
    """

    name: str
    learner: Learner
    pool: Pool
    seed: int

    @property
    def batches(self) -> int:
        """Batches of an epoch, none of one patient alone: three in batches of two are one of three."""
        return min(-(-len(self.pool) // self.learner.settings.batch_size), len(self.pool) // FEWEST)


def pretrain(lesson: Lesson, work: Path, *, on_epoch: OnEpoch | None = None) -> tuple[Weights, History]:
    """Pretrain the learner's encoders in place and return their weights; a stopped one is taken up again.

    Of several processes the leader pretrains, and the others read what it left.

    Args:
        work: folder of this run; ``<name>/pretrained.safetensors`` stays there.

    Raises:
        FittingError: if the loss is not finite, or memory runs out.
    """
    place = work / lesson.name
    with leader_first():
        stored = checkpoint.read(place / DONE)
        if stored is None:
            place.mkdir(parents=True, exist_ok=True)
            run = _Run(lesson, place)
            with pages_kept():
                history = run.run(on_epoch)
            checkpoint.write(place / DONE, checkpoint.labelled(run.weights()), history)
            (place / CHECKPOINT).unlink(missing_ok=True)
            stored = checkpoint.read(place / DONE)
    assert stored is not None
    return {name: stored.part(name) for name in lesson.learner.names}, stored.history


class _Run:
    """The state of one pretraining: learner, optimizer, epoch, sums of the epoch that was begun."""

    def __init__(self, lesson: Lesson, place: Path) -> None:
        self.lesson, self.place = lesson, place
        self.learner = lesson.learner.to(processes().device)
        settings = lesson.learner.settings
        self.optimizer = torch.optim.AdamW(
            self.learner.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.history = History(early_stopping=False)
        self.begun = Begun()
        self.sums: dict[str, float] = {}
        self.saved = time.monotonic()
        self._resume()

    def run(self, on_epoch: OnEpoch | None) -> History:
        epochs = self.learner.settings.epochs
        self.learner.train()
        while len(self.history.epochs) < epochs:
            epoch = len(self.history.epochs)
            self._epoch(epoch)
            metrics = {name: total / self.begun.patients for name, total in self.sums.items()}
            self.history.epochs.append(metrics)
            self.history.best_epoch, self.history.best_loss = epoch, metrics["loss"]
            self.begun, self.sums = Begun(), {}
            if on_epoch:
                on_epoch(self.lesson.name, epoch, metrics)
            self._checkpoint()
        return self.history

    def weights(self) -> dict[str, dict[str, Tensor]]:
        encoders = self.learner.encoders
        return {name: checkpoint.copied(encoders[name].cpu().state_dict()) for name in self.learner.names}

    def _epoch(self, epoch: int) -> None:
        lesson, begun = self.lesson, self.begun
        order = np.random.default_rng([lesson.seed, epoch]).permutation(len(lesson.pool))
        for index, places in enumerate(np.array_split(order, lesson.batches)):
            if index < begun.batches:
                continue  # before it was stopped
            for name, value in self._descend(places, epoch * lesson.batches + index).items():
                self.sums[name] = self.sums.get(name, 0.0) + value * len(places)
            begun.patients += len(places)
            begun.batches += 1
            self._checkpoint()

    def _descend(self, places: Ints, step: int) -> dict[str, float]:
        name = self.lesson.name
        stream, dropout = np.random.SeedSequence([self.lesson.seed, step]).generate_state(2)
        generator = torch.Generator().manual_seed(int(stream))
        torch.manual_seed(int(dropout))  # dropout inside the encoders draws from the global stream
        self._set_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        with refused(f"{name}: memory runs out for {len(places)} patients; lower pretraining.batch_size"):
            loss, more = self.learner.loss(self.lesson.pool.batch(places), generator)
            loss.backward()  # type: ignore[no-untyped-call]
        found = float(loss.detach())
        if not math.isfinite(found):
            raise FittingError(
                f"{name}: the loss is not finite in step {step + 1}; lower pretraining.learning_rate, or look"
                " for extreme values with `medmm cohort check`"
            )
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimizer.step()
        return {"loss": found} | more

    def _set_rate(self, step: int) -> None:
        """Rise for a tenth of the steps, then fall along half a cosine."""
        settings = self.learner.settings
        share = (step + 1) / (self.lesson.batches * settings.epochs + 1)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, share - WARMUP_SHARE) / (1 - WARMUP_SHARE)))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, share / WARMUP_SHARE) * fall

    def _checkpoint(self) -> None:
        if not leads() or time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return
        self.saved = time.monotonic()
        parts = {
            "learner": self.learner.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "sums": {name: torch.tensor(total, dtype=torch.float64) for name, total in self.sums.items()},
        }
        checkpoint.write(self.place / CHECKPOINT, checkpoint.labelled(parts), self.history, self.begun)

    def _resume(self) -> None:
        stopped = checkpoint.read(self.place / CHECKPOINT)
        if stopped is None:
            return
        self.history, self.begun = stopped.history, stopped.begun
        self.learner.load_state_dict(stopped.part("learner"))
        checkpoint.restore_optimizer(self.optimizer, stopped.part("optimizer"))
        self.sums = {name: float(total) for name, total in stopped.part("sums").items()}
