"""The loss of a network: one term per outcome, each over the patients whose label is known.

Sources: focal loss, Lin et al. 2017 (https://doi.org/10.1109/ICCV.2017.324); cumulative logits, McCullagh
    1980;
discrete-time hazards, Gensheimer & Narasimhan 2019 (https://doi.org/10.7717/peerj.6257); Cox's partial
likelihood over a batch with Breslow's handling of ties, Katzman et al. 2018
(https://doi.org/10.1186/s12874-018-0482-1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmm.arrays import Float64
from medmm.evaluation.times import lived_and_happened
from medmm.outcome import CLASSES, Task, columns

GAMMA = 2.0
"""Of the focal loss: the power to which the probability of a wrong answer is taken (Lin et al. 2017)."""


class Objective(nn.Module):
    """The loss of all outcomes of a network.

    The terms are weighed and add up; a label that is not known contributes nothing, and what is known of a
    rarely known outcome counts for more, so that the expected weight of every outcome is the one asked for.

    Args:
        tasks: the outcomes, in the order of the network's logits.
        labels: of the training patients, ``[patient]`` or ``[patient, task]``, NaN where not known.
        imbalance: ``weights``, ``focal``, ``balanced`` or ``none``; see :class:`medmm.recipe.Fitting`.
        weights: per outcome, its share of the loss; 1 where none is given.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        labels: Float64,
        *,
        imbalance: str = "weights",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        shares = [(weights or {}).get(task.name, 1.0) for task in tasks]
        self.shares = [share / sum(shares) for share in shares]
        given = columns(labels)
        self.known = [max(float(np.isfinite(own).mean()), 1e-9) for own in given.T]
        self.terms = nn.ModuleList(
            [_term(task, own[np.isfinite(own)], imbalance) for task, own in zip(tasks, given.T, strict=True)]
        )

    def forward(self, logits: Tensor, labels: Float64, of: int | None = None) -> Tensor:
        """Return the mean loss of a batch, or what some of its patients add to that mean.

        Args:
            logits: ``[patient]`` or ``[patient, output]``.
            labels: ``[patient]`` or ``[patient, task]``, NaN where not known.
            of: patients of the whole batch, where these are some of them; the parts of a batch add up to its
                mean however unevenly it is cut, but for :attr:`undivided`.
        """
        if of is None and len(self.tasks) == 1 and np.isfinite(labels).all():
            term = self.terms[0]
            assert isinstance(term, _Term)
            return term.mean(logits, torch.from_numpy(columns(labels)[:, 0]).to(logits))
        total = logits.sum() * 0.0
        for index, (own, label) in enumerate(self._parts(logits, labels)):
            rows = torch.isfinite(label)
            if rows.any():
                scale = self.shares[index] / (self.known[index] * (of or len(label)))
                total = total + scale * self.terms[index](own[rows], label[rows]).sum()
        return total

    @property
    def undivided(self) -> tuple[str, ...]:
        """Outcomes whose loss compares the patients of a batch with each other, so that it has no parts."""
        return tuple(task.named for task in self.tasks if task.kind == "cox")

    @torch.no_grad()
    def likelihood(self, logits: Tensor, labels: Float64) -> Tensor:
        """Return how likely each patient's labels were held, ``[patient]`` in (0, 1]; mean over outcomes."""
        found = torch.zeros_like(logits if logits.ndim == 1 else logits[:, 0])
        for index, (own, label) in enumerate(self._parts(logits, labels)):
            rows = torch.isfinite(label)
            if rows.any():
                found[rows] += self.shares[index] * self.terms[index].likelihood(own[rows], label[rows])  # type: ignore[operator]
        return found

    def _parts(self, logits: Tensor, labels: Float64) -> list[tuple[Tensor, Tensor]]:
        """Return each outcome's logits and labels."""
        truth = torch.from_numpy(columns(labels)).to(logits)
        if len(self.tasks) == 1:
            return [(logits, truth[:, 0])]
        parts, start = [], 0
        for index, task in enumerate(self.tasks):
            own = logits[:, start : start + task.outputs]
            parts.append((own[:, 0] if task.outputs == 1 else own, truth[:, index]))
            start += task.outputs
        return parts


class _Term(nn.Module):
    """The loss of one outcome, of patients whose label is known."""

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        loss: Tensor = self(logits, labels)
        return loss.mean()

    def likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how likely each label was held, ``[patient]``."""
        loss: Tensor = self(logits, labels)
        return torch.exp(-loss)


class Binary(_Term):
    """Cross-entropy of log-odds; events weigh ``weight``, and ``gamma`` above 0 makes it focal."""

    weight: Tensor

    def __init__(self, weight: float = 1.0, gamma: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32), persistent=False)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each patient, ``[patient]``."""
        losses = self._cross_entropy(logits, labels, "none")
        return losses if self.gamma == 0 else losses * (1 - self.likelihood(logits, labels)) ** self.gamma

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, rounded as torch's own mean is."""
        return (
            self._cross_entropy(logits, labels, "mean") if self.gamma == 0 else super().mean(logits, labels)
        )

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=self.weight.to(logits), reduction=reduction
        )

    def likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how likely each label was held, ``[patient]``."""
        return torch.sigmoid((2 * labels - 1) * logits)


class Multiclass(_Term):
    """Cross-entropy of a softmax; each class weighs ``weights``, and ``gamma`` above 0 makes it focal."""

    def __init__(self, weights: Sequence[float], gamma: float = 0.0) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each patient, ``[patient]``."""
        weights = torch.tensor(self.weights, device=logits.device).to(logits)
        log_share = torch.log_softmax(logits, dim=1).gather(1, labels.long()[:, None])[:, 0]
        losses = -weights[labels.long()] * log_share
        return losses if self.gamma == 0 else losses * (1 - torch.exp(log_share)) ** self.gamma

    def likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how likely each label was held, ``[patient]``."""
        return torch.softmax(logits, dim=1).gather(1, labels.long()[:, None])[:, 0]


class Ordinal(_Term):
    """Cumulative logits ``log-odds P(above level k) = score - θ_k``, rising thresholds fitted beside.

    The thresholds start where a score of 0 gives the training patients' shares, and stay behind when
    training ends: the calibration, fitted out-of-fold, has its own.
    """

    def __init__(self, shares: Sequence[float], weights: Sequence[float], gamma: float = 0.0) -> None:
        super().__init__()
        above = 1 - np.cumsum(shares)[:-1]
        start = torch.from_numpy(np.log((1 - above) / above)).float()
        self.first = nn.Parameter(start[:1].clone())
        # Each step is exp(·), so that no threshold can pass another.
        self.steps = nn.Parameter(torch.log(torch.diff(start).clamp(min=1e-3)))
        self.weights = tuple(weights)
        self.gamma = gamma

    @property
    def thresholds(self) -> Tensor:
        """``[level - 1]``, rising."""
        return torch.cat([self.first, self.first + torch.cumsum(torch.exp(self.steps), dim=0)])

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each patient, ``[patient]``."""
        share = self.likelihood(logits, labels)
        weights = torch.tensor(self.weights, device=logits.device).to(logits)[labels.long()]
        losses = -weights * torch.log(share.clamp(min=1e-12))
        return losses if self.gamma == 0 else losses * (1 - share) ** self.gamma

    def likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how likely each label was held, ``[patient]``."""
        above = torch.sigmoid(logits[:, None] - self.thresholds.to(logits))
        ones, zeros = torch.ones_like(above[:, :1]), torch.zeros_like(above[:, :1])
        edges = torch.cat([ones, above, zeros], dim=1)
        return (edges[:, :-1] - edges[:, 1:]).gather(1, labels.long()[:, None])[:, 0]


class Regression(_Term):
    """Squared error in standard deviations of the labels of those who are trained on."""

    def __init__(self, centre: float, spread: float) -> None:
        super().__init__()
        self.centre = centre
        self.spread = spread

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each patient, ``[patient]``."""
        return (logits - (labels - self.centre) / self.spread) ** 2


class Hazards(_Term):
    """Discrete-time hazards: per interval that a patient lived through or had the event in, a cross-entropy.

    Who is censored within an interval counts as having survived it from its middle on (as Gensheimer &
    Narasimhan).
    """

    def __init__(self, ends: Sequence[float]) -> None:
        super().__init__()
        self.ends = tuple(ends)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each patient, ``[patient]``."""
        lived, happened = (
            torch.from_numpy(x).to(logits)
            for x in lived_and_happened(labels.cpu().double().numpy(), self.ends)
        )
        losses = F.binary_cross_entropy_with_logits(logits, happened, reduction="none")
        return (losses * torch.maximum(lived, happened)).sum(dim=1)


class Cox(_Term):
    """The negative log partial likelihood of the batch, ties as Breslow; the censored only wait."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each patient, ``[patient]``."""
        times = labels.abs()
        waiting = times[None, :] >= times[:, None]  # [patient, who was still at risk]
        risk = torch.where(waiting, logits[None, :], torch.full_like(logits[None, :], -torch.inf)).logsumexp(
            dim=1
        )
        events = labels > 0
        share = len(labels) / events.sum().clamp(min=1)  # the mean is over events
        return torch.where(events, risk - logits, torch.zeros_like(logits)) * share


def _term(task: Task, labels: Float64, imbalance: str) -> _Term:
    """Return the loss of one outcome, with the weights that its training labels ask for."""
    gamma = GAMMA if imbalance == "focal" else 0.0
    if task.kind == "binary":
        positives = float(labels.sum())
        weight = (len(labels) - positives) / max(positives, 1.0) if imbalance == "weights" else 1.0
        return Binary(weight, gamma)
    if task.kind in CLASSES:
        counts = np.array([(labels == place).sum() for place in range(len(task.classes))], dtype=np.float64)
        rare = len(labels) / (len(counts) * np.maximum(counts, 1.0))
        weights = rare if imbalance == "weights" else np.ones_like(rare)
        if task.kind == "multiclass":
            return Multiclass(weights.tolist(), gamma)
        return Ordinal(((counts + 0.5) / (counts + 0.5).sum()).tolist(), weights.tolist(), gamma)
    if task.kind == "regression":
        return Regression(task.centre, task.spread)
    return Hazards(task.ends) if task.kind == "survival" else Cox()
