"""One step: a batch is drawn, cut into parts, descended, and its gradient added up over parts and processes.

The chances of a step come from (seed, step) and are drawn for the whole batch, so that they are the same
however it is cut. The masks of dropout inside the network are drawn part by part and are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting.checkpoint import History
from medmm.fitting.job import Job
from medmm.fitting.losses import Objective
from medmm.fitting.memory import ran_out, refused, release
from medmm.fitting.own_losses import OwnLosses
from medmm.fitting.predicting import placed
from medmm.fitting.processes import Processes
from medmm.network.branches import Branched, modulate
from medmm.network.network import drop_modalities

ALONE = "Expected more than 1 value per channel"
"""In the message of the ValueError that torch's norms raise for what has no spread."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch as it goes into a step."""

    patients: Ints
    values: dict[str, Tensor]
    present: Tensor
    generator: torch.Generator
    dropout: int

    @property
    def have(self) -> Tensor:
        """Patients who have each modality, ``[modality]``."""
        return self.present.sum(dim=0)


@dataclass(slots=True)
class Steps:
    """Descends the loss of one job batch by batch; ``history`` learns of it where memory runs out."""

    job: Job
    fitted: nn.Module
    objective: Objective
    own: OwnLosses
    optimizer: torch.optim.Optimizer
    ours: Processes
    history: History

    def descend(self, patients: Ints, step: int) -> float:
        """Take one step and return the mean loss of the batch before it.

        Raises:
            FittingError: if the loss is not finite, or memory runs out with a single patient.
        """
        with refused(
            f"{self.job.name}: memory runs out for the inputs of {len(patients)} patients; lower"
            " fitting.batch_size"
        ):
            drawn = self._draw(patients, step)
        while True:
            for parameter in self._parameters():
                parameter.grad = None
            found = self._parts(drawn)
            if not self.ours.anybody(found is None):
                break
            found = None  # what the others have found must not stay in memory either
            self._fewer(len(patients))
            _seed(drawn.dropout, self.ours.device)
        assert found is not None
        loss, true = self._added_up(*found)
        if not math.isfinite(loss):
            raise FittingError(
                f"{self.job.name}: the loss is not finite in step {step + 1}; "
                "lower fitting.learning_rate, or look for extreme values with `medmm cohort check`"
            )
        if isinstance(self.fitted, Branched) and self.job.modulate > 0:
            # NaN where nobody has it
            modulate(self.job.network, true / drawn.have.to(true), self.job.modulate, drawn.generator)
        self._update()
        return loss

    def _draw(self, patients: Ints, step: int) -> Drawn:
        stream, dropout = np.random.SeedSequence([self.job.seed, step]).generate_state(2)
        if self.ours.rank:  # the leader's masks are those of a fit without the others
            dropout = np.random.SeedSequence([self.job.seed, step, self.ours.rank]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(stream))
        _seed(int(dropout), self.ours.device)  # dropout inside the network draws from the global stream
        values, present = self.job.inputs.batch(patients)
        for name, augment in self.job.augment.items():
            values[name] = augment(values[name], generator)
        if self.job.modality_dropout > 0:
            present = drop_modalities(present, self.job.modality_dropout, generator)
        return Drawn(patients, values, present, generator, int(dropout))

    def _cuts(self, patients: int) -> list[slice]:
        """Return this process's parts of a batch."""
        mine = self.ours.share(patients)
        if not len(mine):
            return []
        start, stop, size = int(mine[0]), int(mine[-1]) + 1, self._size(patients)
        return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]

    def _size(self, patients: int) -> int:
        """Return the most patients of a batch that go through the network at once, in any process."""
        largest = math.ceil(patients / self.ours.count)
        return min(self.history.micro_batch or self.job.settings.micro_batch or largest, largest)

    def _parts(self, drawn: Drawn) -> tuple[Tensor, Tensor] | None:
        """Return the parts' summed loss and likelihoods, gradients in place; None where memory runs out."""
        logged = len(self.own.log)
        loss = torch.zeros((), device=self.ours.device)
        true = torch.zeros(len(self.job.network.names), device=self.ours.device)
        try:
            for rows in self._cuts(len(drawn.patients)):
                part, likelihood = self._part(drawn, rows)
                loss, true = loss + part, true if likelihood is None else true + likelihood
        except ValueError as error:
            if ALONE not in str(error):
                raise
            raise lonely(self.job) from error
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            del self.own.log[logged:]
            return None
        return loss, true

    def _part(self, drawn: Drawn, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Run one part forward and backward."""
        patients, device = drawn.patients[rows], self.ours.device
        of = None if len(patients) == len(drawn.patients) else len(drawn.patients)
        values = {name: placed(tensor[rows], device) for name, tensor in drawn.values.items()}
        present = drawn.present[rows].to(device)
        with self.ours.autocast():
            found = self.fitted(values, present)
        fused, own = found if isinstance(self.fitted, Branched) else (found, None)
        loss: Tensor = self.objective(fused.float(), self.job.labels[patients], of)
        if own is None:
            self.ours.fabric.backward(loss)
            return loss.detach(), None
        own = own.float()
        have = None if of is None else drawn.have.to(device)
        self.ours.fabric.backward(loss + self.own.loss(own, present, patients, have))
        watched = self.job.modulate > 0
        return loss.detach(), self.own.likelihood(own, present, patients) if watched else None

    def _fewer(self, patients: int) -> None:
        """Halve what goes through the network at once.

        Raises:
            FittingError: if it is one patient already, or the batch cannot be cut.
        """
        size = self._size(patients)
        if size == 1:
            raise FittingError(
                f"{self.job.name}: memory runs out with one patient at a time; make the encoder or its input"
                " smaller (`shape`, `channels`), or give the process more memory"
            )
        why = undivided(self.fitted, self.objective)
        if why:
            raise FittingError(
                f"{self.job.name}: memory runs out with {size} patients at once, and {why}; lower"
                " fitting.batch_size"
            )
        self.history.micro_batch = (size + 1) // 2
        release()

    def _added_up(self, loss: Tensor, true: Tensor) -> tuple[float, Tensor]:
        """Add up gradients, loss and likelihoods over the processes."""
        if self.ours.count == 1:
            return float(loss), true
        parameters = self._parameters()
        known = torch.tensor([float(p.grad is not None) for p in parameters], device=self.ours.device)
        flat = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        summed = self.ours.total(torch.cat([*flat, known, true, loss[None]]))
        sizes = [p.numel() for p in parameters]
        *gradients, known, true, loss = torch.split(summed, [*sizes, len(parameters), len(true), 1])
        for parameter, gradient, somewhere in zip(parameters, gradients, known.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).clone() if somewhere else None
        return float(loss), true

    def _update(self) -> None:
        longest = self.job.settings.clip
        with refused(
            f"{self.job.name}: memory runs out for what the optimizer remembers of each weight; make the"
            " encoder smaller, or give the process more memory"
        ):
            if longest is not None:
                clip(self._parameters(), longest)
            self.optimizer.step()

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _seed(seed: int, device: torch.device) -> None:
    """Seed torch's global streams as ``torch.manual_seed`` does.

    That one also notes the stack of its caller for each kind of accelerator that is not there, which takes
    as long as a small step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def clip(parameters: Sequence[Tensor], longest: float) -> None:
    """Shorten the gradient as ``clip_grad_norm_`` does, but do not multiply by 1 what is short already."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not norm < 0.99 * longest:  # nearer, or NaN, torch's own factor decides
        nn.utils.clip_grads_with_norm_(parameters, longest, norm)


def lonely(job: Job) -> FittingError:
    """Return the refusal of a batch that leaves a norm with a single value to count over."""
    return FittingError(
        f"{job.name}: a norm of the network has one value of a channel to count over; raise"
        " fitting.batch_size, enlarge the image's `shape`, or take fewer `channels`"
    )


def undivided(fitted: nn.Module, objective: Objective) -> str:
    """Return why a batch cannot be cut into parts with the same gradient; an empty text where it can."""
    norms = _batch_norms(fitted)
    if norms:
        return f"{norms[0]} is a batch norm, which counts over the patients that it sees at once"
    if objective.undivided:
        return f"the loss of {objective.undivided[0]} (cox) compares the patients of a batch with each other"
    return ""


def _batch_norms(fitted: nn.Module) -> Sequence[str]:
    kinds: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return [name for name, module in fitted.named_modules() if isinstance(module, kinds)]
