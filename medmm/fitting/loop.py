"""The loop: one network, fitted on one set of patients. The sole importer of Lightning.

Fabric carries the device and the precision; the loop itself stays ours, because a mid-epoch resume of the
full Trainer is not bit-identical and its per-rank mean loss is wrong with uneven batches. Every random
stream is derived from (seed, epoch) or (seed, step), so a resumed run ends in the same bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from medmm.arrays import Float64, Ints
from medmm.errors import FittingError
from medmm.fitting.inputs import Inputs
from medmm.fitting.losses import Objective
from medmm.fitting.watching import WATCHED, gains
from medmm.network.branches import Branched, modulate
from medmm.network.network import Network, drop_modalities
from medmm.outcome import BINARY, Task, columns
from medmm.recipe import Fitting

CHECKPOINT_SECONDS = 10.0
"""Time between checkpoints of one network; small networks finish sooner and need none."""

WARMUP_SHARE = 0.1

CHECKPOINT = "checkpoint.safetensors"

OnEpoch = Callable[[str, int, Mapping[str, float]], None]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(slots=True)
class History:
    """What happened while one network was fitted; ``epochs`` holds the metrics of each.

    Of a joint network they also say how fast each modality learns: ``gain.<name>`` is by how much the loss
    of those who have it grows when it is withheld (conditional utilisation, after Wu et al. 2022), on the
    select patients or, where nobody is set aside, on some who are trained on; and where the modalities have
    heads of their own, ``loss.<name>`` and ``select_loss.<name>``.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = math.inf
    early_stopping: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """One network to fit, and on whom.

    Attributes:
        name: a path-safe name, unique in the run ("fold0/zones").
        labels: ``[patient]``, or ``[patient, task]`` with NaN where an outcome is not known.
        train: patients whose loss is descended.
        select: patients whose loss chooses the epoch; disjoint from ``train``. Where it is nobody every
            epoch of the schedule runs and the last is kept.
        augment: per modality, a function of a batch and a generator, applied at training only.
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
    auxiliary: float = 0.0
    modulate: float = 0.0
    multipliers: Mapping[str, float] = field(default_factory=dict)
    tasks: Sequence[Task] = (BINARY,)
    weights: Mapping[str, float] = field(default_factory=dict)


def fit_network(job: Job, work: Path, *, on_epoch: OnEpoch | None = None) -> History:
    """Fit ``job.network`` in place and return its history; a finished or half-done fit is taken up again.

    The weights kept are those of the epoch with the lowest class-weighted loss on ``job.select``.

    Args:
        work: folder of this run; the fit leaves ``<name>/done.safetensors`` there.

    Raises:
        FittingError: if the loss is not finite.
    """
    place = work / job.name
    done = place / "done.safetensors"
    if done.exists():
        finished = _read(done)
        if finished is not None:
            job.network.load_state_dict(finished[0])
            return finished[1]
    place.mkdir(parents=True, exist_ok=True)
    history = _Fit(job, place).run(on_epoch)
    job.network.cpu()  # fusions, gate and export join it with tensors of the CPU
    _write(done, job.network.state_dict(), history)
    (place / CHECKPOINT).unlink(missing_ok=True)
    return history


@torch.no_grad()
def predict(network: Network, inputs: Inputs, patients: Ints, *, batch_size: int = 64) -> Float64:
    """Return the logit of each patient, ``[patient]``."""
    network.eval()
    device = next(network.parameters()).device
    logits = []
    for start in range(0, len(patients), batch_size):
        values, present = inputs.batch(patients[start : start + batch_size])
        values = {name: _placed(tensor, device) for name, tensor in values.items()}
        logits.append(network(values, present.to(device)).cpu().double().numpy())
    return np.concatenate(logits) if logits else np.zeros(0)


@torch.no_grad()
def withheld(
    network: Network, inputs: Inputs, patients: Ints, *, batch_size: int = 64
) -> tuple[Float64, Float64]:
    """Return the logits ``[patient]``, and those with one modality withheld ``[modality, patient]``."""
    network.eval()
    device = next(network.parameters()).device
    whole, without = [], []
    for start in range(0, len(patients), batch_size):
        values, present = inputs.batch(patients[start : start + batch_size])
        present = present.to(device)
        embedded = network.embed({name: _placed(tensor, device) for name, tensor in values.items()}, present)
        whole.append(network.fuse(embedded, present).cpu().double().numpy())
        masks = 1 - torch.eye(present.shape[1], device=device)
        without.append([network.fuse(embedded, present * mask).cpu().double().numpy() for mask in masks])
    return np.concatenate(whole), np.concatenate(without, axis=1)


class _Fit:
    """The state of one fit: network, optimizer, epoch, best weights."""

    def __init__(self, job: Job, place: Path) -> None:
        self.job = job
        self.place = place
        fabric = Fabric(accelerator="auto", devices=1)
        self.device = fabric.device
        self.branched = _branched(job)
        self.fitted: torch.nn.Module = self.branched or job.network
        self.objective = Objective(
            job.tasks, job.labels[job.train], imbalance=job.settings.imbalance, weights=job.weights
        ).to(self.device)
        groups = _parameter_groups(self.fitted, job) + _own_groups(self.objective, job)
        optimizer = torch.optim.AdamW(groups, weight_decay=job.settings.weight_decay)
        self.network, self.optimizer = fabric.setup(self.fitted, optimizer)
        self.fabric = fabric
        self.history = History(early_stopping=bool(len(job.select)))
        self.best = _copy(job.network.state_dict())
        self.own: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.saved = time.monotonic()
        self._resume()

    def run(self, on_epoch: OnEpoch | None) -> History:
        settings, history = self.job.settings, self.history
        while len(history.epochs) < settings.epochs:
            epoch = len(history.epochs)
            metrics = {"loss": self._train_epoch(epoch)} | self._own_losses("loss")
            if history.early_stopping:
                metrics |= self._select_losses()
            elif len(self.job.network.names) > 1:
                watched = self.job.train[:WATCHED]
                logits = withheld(self.job.network, self.job.inputs, watched)
                metrics |= gains(self._loss, self.job.inputs, watched, *logits)
            self._keep_best(epoch, metrics)
            history.epochs.append(metrics)
            if on_epoch:
                on_epoch(self.job.name, epoch, metrics)
            if history.early_stopping and epoch - history.best_epoch >= settings.patience:
                break
            self._checkpoint()
        self.job.network.load_state_dict(self.best)
        return history

    def _train_epoch(self, epoch: int) -> float:
        job = self.job
        self.network.train()
        order = self._order(epoch)
        batches = math.ceil(len(order) / job.settings.batch_size)
        total, count = 0.0, 0
        for index, patients in enumerate(np.array_split(order, batches)):
            step = epoch * batches + index
            self._set_rate(step, batches * job.settings.epochs)
            total += self._step(patients, step) * len(patients)
            count += len(patients)
        if not math.isfinite(total):
            raise FittingError(
                f"{job.name}: the loss is not finite in epoch {epoch + 1}; "
                "lower fitting.learning_rate, or look for extreme values with `medmm cohort check`"
            )
        return total / count

    def _order(self, epoch: int) -> Ints:
        """Return the patients of one epoch: each once, or as many of every class where that is asked for."""
        job, rng = self.job, np.random.default_rng([self.job.seed, epoch])
        if job.settings.imbalance != "balanced":
            return rng.permutation(job.train)
        groups = job.tasks[0].strata(columns(job.labels)[job.train, 0])
        _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        share = 1.0 / (len(counts) * counts[inverse])
        return np.asarray(rng.choice(job.train, size=len(job.train), p=share / share.sum()))

    def _step(self, patients: Ints, step: int) -> float:
        stream, dropout = np.random.SeedSequence([self.job.seed, step]).generate_state(2)
        generator = torch.Generator().manual_seed(int(stream))
        torch.manual_seed(int(dropout))  # dropout inside the network draws from the global stream
        values, present = self.job.inputs.batch(patients)
        for name, augment in self.job.augment.items():
            values[name] = augment(values[name], generator)
        if self.job.modality_dropout > 0:
            present = drop_modalities(present, self.job.modality_dropout, generator)
        values = {name: _placed(tensor, self.device) for name, tensor in values.items()}
        present = present.to(self.device)
        found = self.network(values, present)
        fused, own = found if self.branched else (found, None)
        loss = self._loss(fused, patients)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss if own is None else loss + self._own_loss(own, present, patients))
        if own is not None and self.job.modulate > 0:
            modulate(self.job.network, self._own_scores(own, present, patients), self.job.modulate, generator)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=1.0, error_if_nonfinite=False)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, logits: torch.Tensor, patients: Ints) -> torch.Tensor:
        loss: torch.Tensor = self.objective(logits, self.job.labels[patients])
        return loss

    def _own_loss(self, own: torch.Tensor, present: torch.Tensor, patients: Ints) -> torch.Tensor:
        """Return the weighted mean loss of the modalities' own heads, on the patients who have them."""
        losses = own.new_zeros(own.shape[1])
        for k in range(own.shape[1]):
            rows = present[:, k].bool()
            if rows.any():
                losses[k] = self._loss(own[rows, k], patients[rows.cpu().numpy()])
        have = present.sum(dim=0)
        self.own.append((losses.detach() * have, have))
        # Heads that only watch are fitted with weight 1: no encoder hears of it.
        return (self.job.auxiliary or 1.0) * losses.sum() / (have > 0).sum().clamp(min=1)

    @torch.no_grad()
    def _own_scores(self, own: torch.Tensor, present: torch.Tensor, patients: Ints) -> torch.Tensor:
        """Return the mean probability of the true class by each modality's own head, ``[modality]``."""
        labels = self.job.labels[patients]
        true = torch.stack([self.objective.likelihood(own[:, k], labels) for k in range(own.shape[1])], dim=1)
        return (present * true).sum(dim=0) / present.sum(dim=0)  # NaN where nobody has it

    def _own_losses(self, label: str) -> dict[str, float]:
        """Return each modality's mean own loss since the last call, by ``<label>.<name>``."""
        if not self.own:
            return {}
        losses, have = (torch.stack(parts).sum(dim=0).tolist() for parts in zip(*self.own, strict=True))
        self.own.clear()
        names = self.job.network.names
        return {f"{label}.{n}": x / h for n, x, h in zip(names, losses, have, strict=True) if h}

    @torch.no_grad()
    def _select_losses(self) -> dict[str, float]:
        """Return the loss on the select patients, and what it says of each modality of a joint network."""
        job = self.job
        if len(job.network.names) == 1:
            logits = torch.from_numpy(predict(job.network, job.inputs, job.select))
            return {"select_loss": float(self._loss(logits, job.select))}
        whole, without = withheld(job.network, job.inputs, job.select)
        found = {"select_loss": float(self._loss(torch.from_numpy(whole), job.select))}
        return found | gains(self._loss, job.inputs, job.select, whole, without) | self._select_own()

    def _select_own(self) -> dict[str, float]:
        if self.branched is None:
            return {}
        self.branched.eval()
        for start in range(0, len(self.job.select), 64):
            patients = self.job.select[start : start + 64]
            values, present = self.job.inputs.batch(patients)
            values = {name: _placed(tensor, self.device) for name, tensor in values.items()}
            present = present.to(self.device)
            self._own_loss(self.branched(values, present)[1], present, patients)
        return self._own_losses("select_loss")

    def _keep_best(self, epoch: int, metrics: Mapping[str, float]) -> None:
        current = metrics.get("select_loss", -math.inf)
        if current < self.history.best_loss or not self.history.early_stopping:
            self.history.best_loss = current if self.history.early_stopping else metrics["loss"]
            self.history.best_epoch = epoch
            self.best = _copy(self.job.network.state_dict())

    def _set_rate(self, step: int, steps: int) -> None:
        warmup = max(1.0, WARMUP_SHARE * steps)
        ramp = min(1.0, (step + 1) / warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, step - warmup) / max(1.0, steps - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * ramp * cosine

    def _checkpoint(self) -> None:
        if time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return
        self.saved = time.monotonic()
        tensors = {f"network.{key}": value for key, value in self.fitted.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.items()}
        tensors |= {f"objective.{key}": value for key, value in self.objective.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        _write(self.place / CHECKPOINT, tensors, self.history)

    def _resume(self) -> None:
        file = self.place / CHECKPOINT
        if not file.exists():
            return
        stopped = _read(file)
        if stopped is None:
            return
        tensors, self.history = stopped
        parts: dict[str, dict[str, torch.Tensor]] = {
            "network": {},
            "best": {},
            "optimizer": {},
            "objective": {},
        }
        for key, value in tensors.items():
            part, rest = key.split(".", 1)
            parts[part][rest] = value
        self.fitted.load_state_dict(parts["network"])
        self.best = parts["best"]
        self.objective.load_state_dict(parts["objective"])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, slot = key.split(".", 1)
            state.setdefault(int(index), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _branched(job: Job) -> Branched | None:
    """Return the network with heads of the modalities' own, drawn from the job's seed, if they are wanted."""
    if not (job.auxiliary > 0 or job.modulate > 0):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        return Branched(job.network, taught=job.auxiliary > 0)


def _parameter_groups(fitted: torch.nn.Module, job: Job) -> list[dict[str, Any]]:
    """Return the optimizer's groups: each encoder with its own peak learning rate, then all the rest."""
    rate = job.settings.learning_rate
    encoders = [(list(m.parameters()), job.multipliers.get(n, 1.0)) for n, m in job.network.encoders.items()]
    owned = {id(parameter) for parameters, _ in encoders for parameter in parameters}
    rest = [parameter for parameter in fitted.parameters() if id(parameter) not in owned]
    groups = [(parameters, rate * multiplier) for parameters, multiplier in [*encoders, (rest, 1.0)]]
    return [{"params": parameters, "lr": peak, "peak": peak} for parameters, peak in groups if parameters]


def _placed(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    """Move a batch to the device; volumes go channels-last, which halves a step on a CPU."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    moved = tensor.to(device)
    return moved.contiguous(memory_format=formats[tensor.ndim]) if tensor.ndim in formats else moved


def _own_groups(objective: Objective, job: Job) -> list[dict[str, Any]]:
    """Return the optimizer's group of what the loss itself learns, thresholds of levels; none without any."""
    parameters = list(objective.parameters())
    rate = job.settings.learning_rate
    return [{"params": parameters, "lr": rate, "peak": rate, "weight_decay": 0.0}] if parameters else []


def _copy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}


def _write(file: Path, tensors: Mapping[str, torch.Tensor], history: History) -> None:
    """Write tensors and their history in one file, so that a kill leaves the old or the new one whole."""
    temporary = file.with_suffix(".partial")
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    save_file(contiguous, temporary, metadata={"history": json.dumps(asdict(history))})
    temporary.replace(file)


def _read(file: Path) -> tuple[dict[str, torch.Tensor], History] | None:
    """Return what :func:`_write` wrote; None where it is damaged, and then it is done again."""
    try:
        with safe_open(file, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
            return tensors, History(**json.loads(stored.metadata()["history"]))
    except (SafetensorError, ValueError, TypeError):
        return None
