"""The loop: one network, fitted on one set of patients.

The loop is ours, because a mid-epoch resume of Lightning's Trainer is not bit-identical and its per-rank
mean loss is wrong with uneven batches. Every random stream is derived from (seed, epoch) or (seed, step), so
a run that was killed at any step and is resumed ends in the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting import checkpoint
from medmm.fitting.checkpoint import Begun, History
from medmm.fitting.frozen import lightened, still
from medmm.fitting.halved import halve, restore
from medmm.fitting.job import Augment, Job
from medmm.fitting.losses import Objective
from medmm.fitting.memory import in_batches, pages_kept
from medmm.fitting.own_losses import OwnLosses
from medmm.fitting.predicting import BATCH, batch, predict, withheld
from medmm.fitting.processes import Processes, leads, processes
from medmm.fitting.steps import Steps
from medmm.fitting.trial import trial
from medmm.fitting.watching import WATCHED, gains
from medmm.network.branches import Branched
from medmm.network.network import Network

__all__ = ["Augment", "History", "Job", "OnEpoch", "fit_network", "predict", "withheld"]

CHECKPOINT_SECONDS = 10.0
"""Time between checkpoints of one network; small networks finish sooner and need none."""

WARMUP_SHARE = 0.1

CHECKPOINT = "checkpoint.safetensors"

OnEpoch = Callable[[str, int, Mapping[str, float]], None]


def fit_network(job: Job, work: Path, *, on_epoch: OnEpoch | None = None) -> History:
    """Fit ``job.network`` in place and return its history; a finished or half-done fit is taken up again.

    The weights kept are those of the epoch with the lowest class-weighted loss on ``job.select``. Of several
    processes each fits its share of every batch and ends with the same weights; the leader alone writes.

    Args:
        work: folder of this run; the fit leaves ``<name>/done.safetensors`` there.

    Raises:
        FittingError: if the loss is not finite, memory runs out with one patient at a time, or the processes
            do not see the same files.
    """
    place, ours = work / job.name, processes(job.settings.precision)
    done = place / "done.safetensors"
    finished = checkpoint.read(done)
    _agree(job, ours, [float(finished is not None)])
    if finished is not None:
        job.network.load_state_dict(finished.tensors)
        return finished.history
    place.mkdir(parents=True, exist_ok=True)
    with pages_kept(), lightened(job, work, ours.device) as lighter:
        history = Fit(lighter, place, ours).run(on_epoch)
    restore(job.network)
    job.network.cpu()  # fusions, gate and export join it with tensors of the CPU
    if leads():
        checkpoint.write(done, job.network.state_dict(), history)
        (place / CHECKPOINT).unlink(missing_ok=True)
    return history


class Fit:
    """The state of one fit: network, optimizer, epoch, best weights.

    Args:
        job: what is fitted.
        place: folder of its checkpoint.
        ours: the processes that fit it.

    Raises:
        FittingError: if the trial step finds what would fail.
    """

    def __init__(self, job: Job, place: Path, ours: Processes) -> None:
        self.job = job
        self.place = place
        self.ours = ours
        self.branched = _branched(job)
        self.fitted: torch.nn.Module = (self.branched or job.network).to(ours.device)
        self.objective = Objective(
            job.tasks, job.labels[job.train], imbalance=job.settings.imbalance, weights=job.weights
        ).to(ours.device)
        groups = _parameter_groups(self.fitted, job) + _own_groups(self.objective, job)
        half = job.settings.precision == "bf16" and ours.device.type == "cpu"
        if half:
            halve(self.fitted)
        # the fused step rounds otherwise than the plain one, whose bits those over all weights at once have
        self.optimizer = torch.optim.AdamW(
            groups, weight_decay=job.settings.weight_decay, fused=half, foreach=not half
        )
        self.average = _average(job)
        self.judged = cast(Network, self.average.module) if self.average else job.network
        self.history = History(early_stopping=bool(len(job.select)))
        self.begun = Begun()
        self.best = checkpoint.copied(job.network.state_dict())
        self.own = OwnLosses(job, self.objective)
        self.saved = time.monotonic()
        fresh = not self._resume()
        _agree(job, ours, [float(len(self.history.epochs)), float(self.begun.batches)])
        self.steps = Steps(job, self.fitted, self.objective, self.own, self.optimizer, ours, self.history)
        if fresh:
            trial(job, self.fitted, self.objective, ours)

    def run(self, on_epoch: OnEpoch | None) -> History:
        """Fit until the schedule or the patience ends, and put the best weights into the network."""
        settings, history = self.job.settings, self.history
        while len(history.epochs) < settings.epochs:
            epoch = len(history.epochs)
            metrics = {"loss": self.train_epoch(epoch)} | self.own.means("loss", self.ours)
            metrics |= self._watched()
            metrics = dict(zip(metrics, self.ours.leader(list(metrics.values())), strict=True))
            self._keep_best(epoch, metrics)
            history.epochs.append(metrics)
            self.begun = Begun()
            if on_epoch:
                on_epoch(self.job.name, epoch, metrics)
            if history.early_stopping and epoch - history.best_epoch >= settings.patience:
                break
            self._checkpoint()
        self.job.network.load_state_dict(self.best)
        return history

    def train_epoch(self, epoch: int) -> float:
        """Descend every batch of an epoch that is not descended yet; return the mean loss.

        Raises:
            FittingError: as of :func:`fit_network`.
        """
        job, begun = self.job, self.begun
        self.fitted.train()
        still(job)
        for index, patients in enumerate(np.array_split(job.order(epoch), job.batches)):
            if index < begun.batches:
                continue  # before the run was stopped
            step = epoch * job.batches + index
            self._set_rate(step, job.batches * job.settings.epochs)
            begun.total += self.steps.descend(patients, step) * len(patients)
            begun.patients += len(patients)
            begun.batches += 1
            if self.average:
                self.average.update_parameters(job.network)
            self._checkpoint()
        return begun.total / begun.patients

    def _watched(self) -> dict[str, float]:
        """Return what an epoch is judged by, and how fast each modality learns."""
        job = self.job
        if self.history.early_stopping:
            return self._select_losses()
        if len(job.network.names) == 1:
            return {}
        watched = job.train[:WATCHED]
        return gains(self._loss, job.inputs, watched, *withheld(self.judged, job.inputs, watched))

    def _loss(self, logits: torch.Tensor, patients: Ints) -> torch.Tensor:
        loss: torch.Tensor = self.objective(logits, self.job.labels[patients])
        return loss

    @torch.no_grad()
    def _select_losses(self) -> dict[str, float]:
        """Return the loss on the select patients, and what it says of each modality of a joint network."""
        job = self.job
        if len(job.network.names) == 1:
            logits = torch.from_numpy(predict(self.judged, job.inputs, job.select))
            return {"select_loss": float(self._loss(logits, job.select))}
        whole, without = withheld(self.judged, job.inputs, job.select)
        found = {"select_loss": float(self._loss(torch.from_numpy(whole), job.select))}
        return found | gains(self._loss, job.inputs, job.select, whole, without) | self._select_own()

    def _select_own(self) -> dict[str, float]:
        if self.branched is None:
            return {}
        self.branched.eval()
        mine = self.job.select[self.ours.share(len(self.job.select))]
        in_batches(self._own_part, mine, BATCH)
        return self.own.means("select_loss", self.ours)

    def _own_part(self, patients: Ints) -> None:
        values, present = batch(self.job.inputs, patients, self.ours.device)
        self.own.loss(self.fitted(values, present)[1], present, patients)

    def _keep_best(self, epoch: int, metrics: Mapping[str, float]) -> None:
        current = metrics.get("select_loss", -math.inf)
        if current < self.history.best_loss or not self.history.early_stopping:
            self.history.best_loss = current if self.history.early_stopping else metrics["loss"]
            self.history.best_epoch = epoch
            self.best = checkpoint.copied(self.judged.state_dict())

    def _set_rate(self, step: int, steps: int) -> None:
        warmup = max(1.0, WARMUP_SHARE * steps)
        ramp = min(1.0, (step + 1) / warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, step - warmup) / max(1.0, steps - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * ramp * cosine

    def _checkpoint(self) -> None:
        if not leads() or time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return
        self.saved = time.monotonic()
        parts = {
            "network": self.fitted.state_dict(),
            "best": self.best,
            "objective": self.objective.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "average": self.average.state_dict() if self.average else {},
            "own": checkpoint.stacked_pairs(self.own.log),
        }
        checkpoint.write(self.place / CHECKPOINT, checkpoint.labelled(parts), self.history, self.begun)

    def _resume(self) -> bool:
        """Take up what :meth:`_checkpoint` left; tell whether there was anything."""
        stopped = checkpoint.read(self.place / CHECKPOINT)
        if stopped is None:
            return False
        self.history, self.begun = stopped.history, stopped.begun
        self.fitted.load_state_dict(stopped.part("network"))
        self.best = stopped.part("best")
        self.objective.load_state_dict(stopped.part("objective"))
        checkpoint.restore_optimizer(self.optimizer, stopped.part("optimizer"))
        if self.average:
            self.average.load_state_dict(stopped.part("average"))
        own = checkpoint.unstacked_pairs(stopped.part("own"))
        self.own.log = [(loss.to(self.ours.device), have.to(self.ours.device)) for loss, have in own]
        return True


def _agree(job: Job, ours: Processes, seen: list[float]) -> None:
    """Refuse to go on where the processes would not start from the same place."""
    if ours.anybody(ours.leader(seen) != seen):
        raise FittingError(
            f"{job.name}: the processes do not find the same files in the run's folder; put --runs where all"
            " of them see it"
        )


def _average(job: Job) -> AveragedModel | None:
    """Return the moving average of the weights, which follows the first step; None where none is wanted."""
    if job.settings.ema is None:
        return None
    follow: Any = get_ema_multi_avg_fn  # torch gives it no types
    return AveragedModel(job.network, multi_avg_fn=follow(job.settings.ema), use_buffers=True)


def _branched(job: Job) -> Branched | None:
    """Return the network with heads of the modalities' own, drawn from the job's seed, if they are wanted."""
    if not (job.auxiliary > 0 or job.modulate > 0):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        return Branched(job.network, taught=job.auxiliary > 0)


def _parameter_groups(fitted: torch.nn.Module, job: Job) -> list[dict[str, Any]]:
    """Return the optimizer's groups: each encoder with its own peak learning rate, then all the rest.

    Neighbours with the same rate are one group, over which a step is taken at once.
    """
    encoders = [(list(m.parameters()), job.multipliers.get(n, 1.0)) for n, m in job.network.encoders.items()]
    owned = {id(parameter) for parameters, _ in encoders for parameter in parameters}
    rest = [parameter for parameter in fitted.parameters() if id(parameter) not in owned]
    rated = [
        (parameter, job.settings.learning_rate * multiplier)
        for parameters, multiplier in [*encoders, (rest, 1.0)]
        for parameter in parameters
        if parameter.requires_grad
    ]
    return [
        {"params": [parameter for parameter, _ in group], "lr": peak, "peak": peak}
        for peak, group in groupby(rated, key=itemgetter(1))
    ]


def _own_groups(objective: Objective, job: Job) -> list[dict[str, Any]]:
    """Return the optimizer's group of what the loss itself learns, thresholds of levels; none without any."""
    parameters = list(objective.parameters())
    rate = job.settings.learning_rate
    return [{"params": parameters, "lr": rate, "peak": rate, "weight_decay": 0.0}] if parameters else []
