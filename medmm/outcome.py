"""The kinds of outcome: how many numbers a network gives for each, and what these numbers mean.

A network gives every patient one row of logits, the outcomes' parts side by side. Of each outcome there are

- *labels*, one number per patient, NaN where it is not known: 0 or 1; the position of the class; a quantity;
or
  the time to the event in days, negative where the patient was only watched until then (censored);
- *components*, fixed weighted sums of its logits, which explanations take apart: weighted sums of additive
  shares are additive, so every component's shares add up as exactly as a binary logit's;
- a *reading*, from calibrated logits to probabilities, a quantity or a survival curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from medmm.arrays import Bools, Float64
from medmm.errors import DataError

Kind: TypeAlias = Literal["binary", "multiclass", "ordinal", "regression", "survival", "cox"]

CLASSES: frozenset[Kind] = frozenset({"binary", "multiclass", "ordinal"})
"""Kinds whose labels are positions of classes."""

TIMES: frozenset[Kind] = frozenset({"survival", "cox"})
"""Kinds whose labels are times to an event, negative where censored."""

MOST_INTERVALS = 10
EVENTS_PER_INTERVAL = 10
"""Of a survival outcome without declared intervals, each of which has about this many events."""

STRATA = 4
"""Groups of about equal size into which a quantity is cut where patients are dealt into folds."""


@dataclass(frozen=True, slots=True)
class Task:
    """One outcome as a network predicts it.

    Attributes:
        name: the outcome's name in the cohort.
        label: what a reader sees.
        classes: of a multiclass or ordinal outcome, in the order declared; an ordinal one's from low to high.
        ends: of a time to an event, the ends of the intervals in days, ascending.
        unit: of a quantity.
        centre: of a quantity, the mean over the training patients; the network gives multiples of ``spread``.
        spread: the standard deviation that goes with it.
    """

    name: str
    kind: Kind = "binary"
    label: str = ""
    classes: tuple[str, ...] = ()
    ends: tuple[float, ...] = ()
    unit: str = ""
    centre: float = 0.0
    spread: float = 1.0

    @property
    def outputs(self) -> int:
        """Numbers that the network gives of it."""
        return {"multiclass": len(self.classes), "survival": len(self.ends)}.get(self.kind, 1)

    @property
    def components(self) -> tuple[str, ...]:
        """What is explained, by name; one entry, the outcome itself, unless it has several classes."""
        return self.classes if self.kind == "multiclass" else (self.name,)

    @property
    def directions(self) -> Float64:
        """``[component, output]``: the weights of the logits in each component.

        A class is explained by its logit above the mean logit of all classes, since a softmax does not change
        when every logit moves alike; a survival by the mean log-odds of its hazards.
        """
        if self.kind == "multiclass":
            count = len(self.classes)
            return np.asarray(np.eye(count) - 1.0 / count)
        return np.full((1, self.outputs), 1.0 / self.outputs)

    @property
    def named(self) -> str:
        """The label, or the name where it has none."""
        return self.label or self.name

    def component(self, logits: Float64, index: int) -> Float64:
        """Return one component ``[...]`` of the outcome's logits ``[..., output]``."""
        return np.asarray(logits @ self.directions[index])

    def strata(self, labels: Float64) -> Float64:
        """Return a group of like patients for each label ``[patient]``; -1 where it is not known."""
        known = np.isfinite(labels)
        groups = np.full(len(labels), -1.0)
        if self.kind in CLASSES:
            groups[known] = labels[known]
        elif self.kind in TIMES:
            groups[known] = labels[known] > 0
        elif known.any():
            cuts = np.quantile(labels[known], np.arange(1, STRATA) / STRATA)
            groups[known] = np.searchsorted(cuts, labels[known], side="left")
        return groups

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON values; :meth:`from_json` is the inverse."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Task:
        """Return the task that :meth:`to_json` wrote.

        Raises:
            TypeError: if a key is unknown.
        """
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**given)


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """What one explanation takes apart: a weighted sum of a network's logits.

    Attributes:
        task: the outcome that it belongs to.
        index: its place among the outcome's components.
        direction: ``[output]``, the weights, over the logits of all outcomes.
    """

    task: Task
    index: int
    direction: Float64

    @property
    def name(self) -> str:
        """The outcome, and the class where it has several: "disposition: ward"."""
        own = self.task.components[self.index]
        return own if len(self.task.components) == 1 else f"{self.task.name}: {own}"


def components(tasks: Sequence[Task]) -> tuple[Component, ...]:
    """Return every component of a network's logits, in their order."""
    found = []
    for place, task in enumerate(tasks):
        for index, weights in enumerate(task.directions):
            direction = np.zeros(width(tasks))
            start = width(tasks[:place])
            direction[start : start + task.outputs] = weights
            found.append(Component(task, index, direction))
    return tuple(found)


BINARY = Task("outcome")
"""A binary outcome without a name."""


def width(tasks: Sequence[Task]) -> int:
    """Return how many logits a network of these outcomes gives."""
    return sum(task.outputs for task in tasks)


def part(logits: Float64, tasks: Sequence[Task], index: int) -> Float64:
    """Return one outcome's logits: ``[patient]`` where it has one output, else ``[patient, output]``.

    Args:
        logits: of all outcomes, ``[patient]`` or ``[patient, output]``.
        tasks: the outcomes, in the network's order.
        index: which of them.
    """
    if width(tasks) == 1:
        return logits
    start = width(tasks[:index])
    own = logits[:, start : start + tasks[index].outputs]
    return own[:, 0] if tasks[index].outputs == 1 else own


def scored(logits: Float64) -> Bools:
    """Return which patients have logits, ``[patient]``, of one output or several."""
    known = np.isfinite(logits)
    return known if known.ndim == 1 else np.asarray(known.all(axis=1))


def columns(labels: Float64) -> Float64:
    """Return labels as ``[patient, task]``, whether they came as ``[patient]`` or so already."""
    return labels[:, None] if labels.ndim == 1 else labels


def softmax(logits: Float64) -> Float64:
    """Return probabilities ``[..., class]`` of logits ``[..., class]``; they add up to 1."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def levels(above: Float64) -> Float64:
    """Return the probability of each level ``[..., K]`` from P(above level k) ``[..., K - 1]``, falling."""
    ones, zeros = np.ones_like(above[..., :1]), np.zeros_like(above[..., :1])
    edges = np.concatenate([ones, above, zeros], axis=-1)
    return np.asarray(edges[..., :-1] - edges[..., 1:])


def rates(task: Task, labels: Float64) -> dict[str, float]:
    """Return the share of each class among the known labels ``[patient]``; of a kind without, nothing."""
    known = labels[np.isfinite(labels)]
    if task.kind == "binary":
        return {task.name: float(known.mean())}
    if task.kind not in CLASSES:
        return {}
    return {name: float((known == place).mean()) for place, name in enumerate(task.classes)}


def events(task: Task, labels: Float64) -> tuple[int, float]:
    """Return how many of the known labels ``[patient]`` are events, and their share.

    Of a kind without events all count as one: how many are known, and 1.
    """
    known = labels[np.isfinite(labels)]
    if task.kind != "binary" and task.kind not in TIMES:
        return len(known), 1.0
    return int((known > 0).sum()), float((known > 0).mean())


def intervals(labels: Float64) -> tuple[float, ...]:
    """Return the ends of intervals with about equally many events each, the last at the last event.

    Args:
        labels: ``[patient]``, times to the event, negative where censored.
    """
    events = np.sort(labels[labels > 0])
    count = int(np.clip(len(events) // EVENTS_PER_INTERVAL, 1, MOST_INTERVALS))
    ends = np.unique(np.quantile(events, np.arange(1, count + 1) / count, method="higher"))
    return tuple(float(end) for end in ends)


def check_labels(task: Task, labels: Float64) -> None:
    """Refuse an outcome that nothing can be learned of.

    Args:
        task: the outcome.
        labels: ``[patient]`` of the training patients, NaN where not known.

    Raises:
        DataError: in one line, with what to do.
    """
    known = labels[np.isfinite(labels)]
    if not len(known):
        raise DataError(f"outcome {task.name}: no training patient has a label; look at its table and column")
    if task.kind in TIMES and not (known > 0).any():
        raise DataError(f"outcome {task.name}: every training patient is censored; look at `event`")
    if task.kind == "regression" and np.ptp(known) == 0:
        raise DataError(
            f"outcome {task.name}: all {len(known)} labels are {known[0]:g}; there is nothing to learn"
        )
    if task.kind in CLASSES:
        names = task.classes or ("0", "1")
        empty = [name for index, name in enumerate(names) if not (known == index).any()]
        if empty:
            raise DataError(
                f"outcome {task.name}: none of {len(known)} training patients is {empty[0]!r}; a model"
                " needs every class. Look at the outcome's words in cohort.yaml, or leave the class out"
            )


def read(task: Task, calibrated: Float64) -> Float64:
    """Return what calibrated logits say, on the scale a reader knows.

    Args:
        task: the outcome.
        calibrated: what :mod:`medmm.calibration` made of its logits: ``[...]`` of a binary outcome or a
            quantity; ``[..., class]``; of an ordinal outcome, log-odds of being above each level but the
            last; of a time to an event ``[..., interval]``.

    Returns:
        The probability of an event; of each class; the quantity; or, at the end of each interval, of no
        event yet.
    """
    if task.kind == "multiclass":
        return softmax(calibrated)
    if task.kind == "ordinal":
        return levels(sigmoid(calibrated))
    if task.kind == "survival":
        return np.asarray(np.cumprod(sigmoid(-calibrated), axis=-1))
    if task.kind == "cox":
        return np.asarray(np.exp(-np.exp(np.minimum(calibrated, 700.0))))
    return calibrated if task.kind == "regression" else sigmoid(calibrated)


def sigmoid(logit: Float64) -> Float64:
    """Return ``1 / (1 + exp(-logit))`` without overflow."""
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, small) / (1.0 + small))
