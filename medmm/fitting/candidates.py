"""What is fitted on one split: the fused network, each modality alone, the tables alone, and the rivals.

Everything fitted here, preprocessing included, is fitted on the split's own training patients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import FittingError
from medmm.evaluation.calibrate import fit_platt
from medmm.fitting import baselines
from medmm.fitting.inputs import Inputs, Prepared, prepare_table
from medmm.fitting.loop import History, Job, OnEpoch, fit_network, predict
from medmm.fitting.partition import deal, select_set
from medmm.fitting.stacking import fit_stack
from medmm.modality import Modality
from medmm.network.fusion import LateMean as WeightedMean
from medmm.network.fusion import Stack
from medmm.network.network import Network, bare, build, unimodal
from medmm.outcome import BINARY, CLASSES, TIMES, Task, columns, width
from medmm.recipe import Joint, LateMean, LateStack, Recipe
from medmm.sample import Absence


@dataclass(frozen=True, slots=True)
class Problem:
    """A recipe and the patients it is fitted on; row i of everything is patient i.

    Attributes:
        modalities: unfitted, in the order of the presence vector.
        rows: per modality that is fitted, what was loaded of every patient, or its absence.
        images: per image modality, its prepared arrays.
        labels: ``[patient]``; or of several outcomes ``[patient, task]``, NaN where one is not known.
        tasks: the outcomes, in the order of the columns of ``labels`` and of the networks' logits.
        pseudonyms: per patient, the only name that is written down.
        keys: per patient, a stable text that orders them when they are dealt into folds.
        work: folder in which finished fits are kept.
    """

    recipe: Recipe
    modalities: Mapping[str, Modality]
    rows: Mapping[str, Sequence[Any]]
    images: Mapping[str, Prepared]
    labels: Float64
    keys: Sequence[str]
    pseudonyms: Sequence[str]
    work: Path
    on_epoch: OnEpoch | None = None
    tasks: tuple[Task, ...] = (BINARY,)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the modalities that come from tables, courses of results and notes among them."""
        return tuple(name for name in self.modalities if name in self.rows)

    @property
    def tabular(self) -> tuple[str, ...]:
        """Names of those whose columns mean something alone: what the rivals are fitted on."""
        return tuple(name for name in self.tables if self.modalities[name].tabular)

    @property
    def outputs(self) -> int:
        """Logits of a patient."""
        return width(self.tasks)

    @property
    def strata(self) -> Float64:
        """``[patient]``: groups by the first outcome, dealt evenly; -1 where it is not known."""
        return self.tasks[0].strata(columns(self.labels)[:, 0])

    def blank(self, patients: int) -> Float64:
        """Return logits of nobody: NaN, ``[patient]`` or ``[patient, output]``."""
        return np.full(patients if self.outputs == 1 else (patients, self.outputs), np.nan)

    def options(self, fusion: Joint) -> dict[str, Any]:
        """Return what a joint fusion's constructor takes besides what the encoders give."""
        return {**fusion.options(), **({"outputs": self.outputs} if self.outputs > 1 else {})}

    def seed(self, name: str) -> int:
        """Return the seed of one fit: a function of the recipe's seed and the fit's name alone."""
        digest = hashlib.sha256(f"{self.recipe.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    def fitted(self, train: Ints) -> tuple[dict[str, Modality], Inputs]:
        """Fit every table on ``train`` and return the modalities with everybody's prepared inputs."""
        modalities = dict(self.modalities)
        prepared: dict[str, Prepared] = {}
        for name, modality in self.modalities.items():
            if name in self.images:
                prepared[name] = self.images[name]
                continue
            rows = self.rows[name]
            own = (rows[index] for index in train)
            fitted = modality.fit(row for row in own if not isinstance(row, Absence))
            modalities[name] = fitted
            prepared[name] = prepare_table(fitted, rows)
        return modalities, Inputs(prepared)


@dataclass(frozen=True, slots=True)
class SplitFit:
    """All that was fitted on one split.

    Attributes:
        modalities: fitted on the split's training patients.
        network: the fused network.
        logits: per model, ``[test patient]`` or ``[test patient, output]``; NaN where a model cannot score
            the patient.
        histories: per fit, what happened.
    """

    modalities: Mapping[str, Modality]
    network: Network
    logits: Mapping[str, Float64]
    histories: Mapping[str, History]


def fit_split(problem: Problem, train: Ints, test: Ints, name: str) -> SplitFit:
    """Fit every candidate on ``train`` and score ``test`` with each.

    Args:
        train: rows of the training patients.
        test: rows of the patients to score; disjoint from ``train``.
        name: a path-safe name of the split ("fold0").

    Raises:
        FittingError: if the training patients cannot carry the recipe.
    """
    modalities, inputs = problem.fitted(train)
    split = _Split(problem, train, test, name, modalities, inputs)
    fusion = problem.recipe.fusion
    if isinstance(fusion, LateStack):
        network, logits = split.late_stack()
    elif isinstance(fusion, LateMean):
        network, logits = split.late_mean(fusion)
    else:
        network, logits = split.joint()
    if problem.tabular:
        logits |= split.rivals()
    return SplitFit(modalities, network, logits, split.histories)


@dataclass
class _Split:
    problem: Problem
    train: Ints
    test: Ints
    name: str
    modalities: Mapping[str, Modality]
    inputs: Inputs
    histories: dict[str, History] = field(default_factory=dict)

    def joint(self) -> tuple[Network, dict[str, Float64]]:
        """Fit the joint network, the same without the images, and each modality alone."""
        logits = {}
        for name in self.inputs.names:
            logits[name] = self._score(
                self._alone(name, self.modalities, self.inputs, self.train, self.name), (name,)
            )
        tables = self.problem.tables
        network = self._joint(self.inputs.names, "fused") if len(self.inputs.names) > 1 else None
        if network is None:
            only = self.inputs.names[0]
            network = self._alone(only, self.modalities, self.inputs, self.train, self.name)
        logits["fused"] = self._score(network, self.inputs.names)
        if 1 < len(tables) < len(self.inputs.names):
            logits["tables"] = self._score(self._joint(tables, "tables"), tables)
        elif len(tables) == 1:
            logits["tables"] = logits[tables[0]]
        return network, logits

    def late_mean(self, fusion: LateMean) -> tuple[Network, dict[str, Float64]]:
        """Fit each modality alone; the fused logit is the weighted mean of theirs."""
        names, bases, logits = self.inputs.names, {}, {}
        for name in names:
            bases[name] = self._alone(name, self.modalities, self.inputs, self.train, self.name)
            logits[name] = self._score(bases[name], (name,))
        fused, tables = (
            Network(
                {name: bases[name].encoders[name] for name in members},
                WeightedMean.of([fusion.weights.get(name, 1.0) for name in members], self.problem.outputs),
            )
            for members in (names, self.problem.tables or names)
        )
        logits["fused"] = self._score(fused, names)
        if self.problem.tables:
            logits["tables"] = self._score(tables, self.problem.tables)
        return fused, logits

    def late_stack(self) -> tuple[Network, dict[str, Float64]]:
        """Fit each modality alone, and regress the label on their calibrated out-of-fold logits."""
        names = self.inputs.names
        out_of_fold = self._out_of_fold()
        bases, logits, calibrations = {}, {}, {}
        for name in names:
            have = self._having(name, self.train)
            calibrations[name] = fit_platt(out_of_fold[name][have], self.problem.labels[have])
            bases[name] = self._alone(name, self.modalities, self.inputs, self.train, self.name)
            logits[name] = self._score(bases[name], (name,))
        fusion = self.problem.recipe.fusion
        assert isinstance(fusion, LateStack)
        labels = self.problem.labels[self.train]
        for label, members in (("fused", names), ("tables", self.problem.tables)):
            if not members:
                continue
            held = {name: out_of_fold[name][self.train] for name in members}
            stack = fit_stack(held, [calibrations[name] for name in members], labels, l2=fusion.l2)
            network = Network({name: bases[name].encoders[name] for name in members}, stack)
            logits[label] = self._score(network, members)
            if label == "fused":
                fused = network
        return fused, logits

    def rivals(self) -> dict[str, Float64]:
        """Fit trees and logistic regression on the tables' vectors."""
        tables = self.problem.tabular
        train, test = self._vectors(tables, self.train), self._vectors(tables, self.test)
        if not len(self.test):
            return {}
        known = self._any_present(tables, self.test)
        seed = self.problem.seed(f"{self.name}/trees")
        labels = columns(self.problem.labels)[self.train]
        found = {}
        for name in ("trees", "logistic"):
            parts = [
                baselines.rival(name, task, train, own, test, seed=seed)
                for task, own in zip(self.problem.tasks, labels.T, strict=True)
            ]
            logits = (
                parts[0] if len(parts) == 1 else np.concatenate([columns(part) for part in parts], axis=1)
            )
            logits[~known] = np.nan
            found[name] = logits
        return found

    def _joint(self, names: Sequence[str], label: str) -> Network:
        fusion = self.problem.recipe.fusion
        assert isinstance(fusion, Joint)
        job = f"{self.name}/{label}"
        torch.manual_seed(self.problem.seed(job))
        modalities = {name: self.modalities[name] for name in names}
        network = build(modalities, fusion.kind, self.problem.options(fusion))
        rows = self.train[self._any_present(names, self.train)]
        self._fit(job, network, self.inputs.only(names), rows, together=fusion)
        return network

    def _alone(
        self, name: str, modalities: Mapping[str, Modality], inputs: Inputs, train: Ints, prefix: str
    ) -> Network:
        job = f"{prefix}/{name}"
        torch.manual_seed(self.problem.seed(job))
        outputs = self.problem.outputs
        network = Network({name: unimodal(modalities[name].encoder(), outputs)}, Stack([outputs], outputs))
        self._fit(job, network, inputs.only([name]), train[inputs.prepared[name].row_of[train] >= 0])
        return network

    def _fit(
        self, job: str, network: Network, inputs: Inputs, rows: Ints, together: Joint | None = None
    ) -> None:
        labels, settings = self.problem.labels, self.problem.recipe.fitting
        _enough(self.problem.tasks, columns(labels)[rows], job)
        for name in inputs.names:
            self.modalities[name].warm_start(bare(network.encoders[name]))
        seed = self.problem.seed(job)
        keys = [self.problem.keys[row] for row in rows]
        held = select_set(self.problem.strata[rows], keys, share=settings.select_share, seed=seed)
        self.histories[job] = fit_network(
            Job(
                name=job,
                network=network,
                inputs=inputs,
                labels=labels,
                train=rows[~held],
                select=rows[held],
                settings=settings,
                seed=seed,
                modality_dropout=together.modality_dropout if together else 0.0,
                augment={name: self.modalities[name].augment for name in inputs.names},
                auxiliary=together.auxiliary if together else 0.0,
                modulate=together.modulate if together else 0.0,
                multipliers={name: self.modalities[name].learning_rate_multiplier for name in inputs.names},
                tasks=self.problem.tasks,
                weights=self.problem.recipe.outcomes,
            ),
            self.problem.work,
            on_epoch=self.problem.on_epoch,
        )

    def _out_of_fold(self) -> dict[str, Float64]:
        """Return per modality the out-of-fold logits ``[patient]`` of the training patients, else NaN."""
        fusion = self.problem.recipe.fusion
        assert isinstance(fusion, LateStack)
        folds = self._inner_folds(fusion)
        logits = {name: np.full(len(self.problem.labels), np.nan) for name in self.inputs.names}
        for fold in range(folds.max() + 1):
            train, test = self.train[folds != fold], self.train[folds == fold]
            modalities, inputs = self.problem.fitted(train)
            for name in self.inputs.names:
                network = self._alone(name, modalities, inputs, train, f"{self.name}/inner{fold}")
                have = self._having(name, test)
                logits[name][have] = predict(network, inputs.only([name]), have)
        return logits

    def _inner_folds(self, fusion: LateStack) -> Ints:
        labels = self.problem.labels[self.train]
        present = self.inputs.present[self.train]
        strata = [f"{label}{row.tolist()}" for label, row in zip(labels, present, strict=True)]
        keys = [self.problem.keys[row] for row in self.train]
        for count in range(fusion.inner_folds, 1, -1):
            folds = deal(strata, keys, folds=count, seed=self.problem.seed(self.name))
            if _smallest_class(labels, present, folds) >= fusion.smallest_class:
                return folds
        raise FittingError(
            f"{self.name}: late_stack needs at least {fusion.smallest_class} patients of each class per "
            "modality in each of two inner folds; use fusion `concat`, or drop the modality that few have"
        )

    def _score(self, network: Network, names: Sequence[str]) -> Float64:
        logits = self.problem.blank(len(self.test))
        known = self._any_present(names, self.test)
        logits[known] = predict(network, self.inputs.only(names), self.test[known])
        return logits

    def _any_present(self, names: Sequence[str], rows: Ints) -> Bools:
        return np.asarray(self.inputs.only(names).present[rows].any(axis=1))

    def _having(self, name: str, rows: Ints) -> Ints:
        return rows[self.inputs.prepared[name].row_of[rows] >= 0]

    def _vectors(self, names: Sequence[str], rows: Ints) -> Any:
        return np.concatenate([self.inputs.prepared[name].array[rows] for name in names], axis=1)


def _enough(tasks: Sequence[Task], labels: Float64, job: str) -> None:
    """Refuse to fit where an outcome has too few patients of a kind."""
    for task, own in zip(tasks, labels.T, strict=True):
        known = own[np.isfinite(own)]
        if task.kind == "binary":
            positives = int(known.sum())
            if min(positives, len(known) - positives) < 2:
                raise FittingError(
                    f"{job}: {positives} positive of {len(known)} patients; a network needs two of each"
                    " class. Use fewer folds, or drop the modality that few patients have"
                )
        elif task.kind in CLASSES:
            counts = [int((known == place).sum()) for place in range(len(task.classes))]
            if min(counts) < 2:
                rarest = task.classes[int(np.argmin(counts))]
                raise FittingError(
                    f"{job}: {min(counts)} of {len(known)} patients are {rarest!r}; a network needs two of"
                    " each class. Use fewer folds, or drop the modality that few patients have"
                )
        elif task.kind in TIMES and (known > 0).sum() < 2:
            raise FittingError(
                f"{job}: {int((known > 0).sum())} events of {task.name} among {len(known)} patients; a"
                " network needs two. Use fewer folds, or drop the modality that few patients have"
            )
        elif len(np.unique(known)) < 2:
            raise FittingError(
                f"{job}: {task.name} is the same for all {len(known)} patients; use fewer folds"
            )


def _smallest_class(labels: Float64, present: Bools, folds: Ints) -> int:
    """Return the smallest count of one class, among the holders of one modality, in one fold."""
    counts = [
        int(((labels == label) & present[:, column] & (folds == fold)).sum())
        for label in (0, 1)
        for column in range(present.shape[1])
        for fold in range(folds.max() + 1)
    ]
    return min(counts)
