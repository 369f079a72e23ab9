"""What is fitted on one split: the fused network, each modality alone, the tables alone, and the rivals.

Everything fitted here, preprocessing included, is fitted on the split's own training patients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import FittingError
from medmm.evaluation.calibrate import fit_platt
from medmm.fitting import baselines
from medmm.fitting.checkpoint import History
from medmm.fitting.enough import enough, smallest_class
from medmm.fitting.inputs import Inputs, Prepared, prepare_table
from medmm.fitting.job import Job
from medmm.fitting.loop import OnEpoch, fit_network
from medmm.fitting.partition import deal, select_set
from medmm.fitting.predicting import predict
from medmm.fitting.pretraining.beginning import Pretrained, fill, pretrained_on_split
from medmm.fitting.pretraining.loop import Weights
from medmm.fitting.pretraining.pool import Unlabelled
from medmm.fitting.scaling import rescale, scaled
from medmm.fitting.stacking import fit_stack
from medmm.modality import Modality
from medmm.network.fusion import LateMean as WeightedMean
from medmm.network.fusion import Stack
from medmm.network.network import Network, bare, build, unimodal
from medmm.outcome import BINARY, Task, columns, width
from medmm.recipe import Joint, LateMean, LateStack, Recipe
from medmm.recipe.fusion import Fusion
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
        inner: per cross-validation (the prefix of its splits' names), a nested division that the cohort
            asks for, ``[patient, outer fold]``; without one, inner folds are dealt here.
        searched: where the recipe searches settings, what returns this problem under those that are best
            among given training patients (rows, name of the split).
        unlabelled: patients who join the pretraining of each split that scores nobody of their family or
            site; None where nothing is pretrained there.
        pretrained: encoders that were pretrained ahead of the run.
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
    inner: Mapping[str, Ints] = field(default_factory=dict)
    searched: Callable[[Ints, str], Problem] | None = None
    unlabelled: Unlabelled | None = None
    pretrained: Pretrained | None = None

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
        """Fit every table on ``train`` and return the modalities with everybody's prepared inputs.

        Where unlabelled patients join the pretraining, tables are fitted on them too: few labels must not
        mean that a mean is taken over few patients. A pretrained encoder keeps the preparation it came with.
        """
        modalities = dict(self.modalities)
        prepared: dict[str, Prepared] = {}
        for name, modality in self.modalities.items():
            if name in self.images:
                prepared[name] = self.images[name]
                continue
            rows = self.rows[name]
            if self.pretrained is not None and name in self.pretrained.modalities:
                fitted = self.pretrained.modalities[name]
            else:
                own = [rows[index] for index in train]
                own += self.unlabelled.joined(name, train) if self.unlabelled else []
                fitted = modality.fit(row for row in own if not isinstance(row, Absence))
            modalities[name] = fitted
            prepared[name] = prepare_table(fitted, rows)
        return modalities, Inputs(prepared)


TABLES = "tables"
"""The recipe's own fusion of the tables alone."""


@dataclass(frozen=True, slots=True)
class SplitFit:
    """All that was fitted on one split.

    Attributes:
        modalities: fitted on the split's training patients.
        networks: per model that may be shipped, its network; "fused" is the recipe's own.
        logits: per model, ``[test patient]`` or ``[test patient, output]``; NaN where a model cannot score
            the patient.
        histories: per fit, what happened.
    """

    modalities: Mapping[str, Modality]
    networks: Mapping[str, Network]
    logits: Mapping[str, Float64]
    histories: Mapping[str, History]


def fit_split(
    problem: Problem, train: Ints, test: Ints, name: str, *, only: Sequence[str] | None = None
) -> SplitFit:
    """Fit every candidate on ``train`` and score ``test`` with each.

    Each modality alone, and what is fitted inside the split for stacking, is the same for every fusion and
    fitted once. A fit's seed comes from its name, so what else is fitted changes none of its bits.

    Args:
        train: rows of the training patients.
        test: rows of the patients to score; disjoint from ``train``.
        name: a path-safe name of the split ("fold0").
        only: models that are wanted; without it every candidate and the rivals.

    Raises:
        FittingError: if the training patients cannot carry the recipe.
    """
    if problem.searched is not None:
        problem = problem.searched(train, name)
    modalities, inputs = problem.fitted(train)
    split = _Split(problem, train, test, name, modalities, inputs)
    split.begin(name, train, modalities, inputs)
    asked = (*inputs.names, "fused", TABLES, *problem.recipe.fusions) if only is None else only
    networks = {label: network for label in dict.fromkeys(asked) if (network := split.network(label))}
    logits = {label: split.score(network) for label, network in networks.items()}
    if only is None and problem.tabular:
        logits |= split.rivals()
    shipped = networks if problem.recipe.routing != "none" else {"fused": networks["fused"]}
    return SplitFit(modalities, shipped, logits, split.histories)


@dataclass
class _Split:
    problem: Problem
    train: Ints
    test: Ints
    name: str
    modalities: Mapping[str, Modality]
    inputs: Inputs
    histories: dict[str, History] = field(default_factory=dict)
    bases: dict[str, Network] = field(default_factory=dict)
    inner: dict[str, dict[str, Float64]] = field(default_factory=dict)
    begun: dict[str, Weights] = field(default_factory=dict)

    def begin(self, name: str, train: Ints, modalities: Mapping[str, Modality], inputs: Inputs) -> None:
        """Find what the encoders of a split, or of a split inside it, begin with."""
        self.begun[name], history = pretrained_on_split(self.problem, train, name, modalities, inputs)
        if history is not None:
            self.histories[f"{name}/pretraining"] = history

    def network(self, label: str) -> Network | None:
        """Return a model's network, fitted; None where there are no tables, or nothing but tables."""
        fusions, names, tables = self.problem.recipe.fusions, self.inputs.names, self.problem.tables
        if label in fusions:
            return self._fused(fusions[label], names, label)
        if label != TABLES:
            return self._base(label)
        own = fusions["fused"]
        same = isinstance(own, Joint) and 1 < len(tables) == len(names)
        return self._fused(own, tables, TABLES) if tables and not same else None

    def _fused(self, fusion: Fusion, names: Sequence[str], label: str) -> Network:
        if isinstance(fusion, LateStack):
            return self._late_stack(fusion, names)
        if isinstance(fusion, LateMean):
            weights = [fusion.weights.get(name, 1.0) for name in names]
            return Network(self._encoders(names), WeightedMean.of(weights, self.problem.outputs))
        return self._joint(fusion, names, label) if len(names) > 1 else self._base(names[0])

    def _base(self, name: str) -> Network:
        """Return one modality alone."""
        if name not in self.bases:
            self.bases[name] = self._alone(name, self.modalities, self.inputs, self.train, self.name)
        return self.bases[name]

    def _encoders(self, names: Sequence[str]) -> dict[str, nn.Module]:
        return {name: self._base(name).encoders[name] for name in names}

    def _late_stack(self, fusion: LateStack, names: Sequence[str]) -> Network:
        """Regress the label on the calibrated out-of-fold logits of the modalities alone."""
        out_of_fold = self._out_of_fold(fusion)
        calibrations = []
        for name in names:
            have = self._having(name, self.train)
            calibrations.append(fit_platt(out_of_fold[name][have], self.problem.labels[have]))
        held = {name: out_of_fold[name][self.train] for name in names}
        stack = fit_stack(held, calibrations, self.problem.labels[self.train], l2=fusion.l2)
        return Network(self._encoders(names), stack)

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

    def _joint(self, fusion: Joint, names: Sequence[str], label: str) -> Network:
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
        enough(self.problem.tasks, columns(labels)[rows], job)
        for name in inputs.names:
            encoder = bare(network.encoders[name])
            self.modalities[name].warm_start(encoder)
            fill(encoder, self.begun[job.rpartition("/")[0]].get(name))
        seed = self.problem.seed(job)
        keys = [self.problem.keys[row] for row in rows]
        strata = self.problem.tasks[0].strata(columns(labels)[rows, 0])
        held = select_set(strata, keys, share=settings.select_share, seed=seed)
        tasks = scaled(self.problem.tasks, labels[rows[~held]])
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
                augment={n: self.modalities[n].augment for n in inputs.names if self.modalities[n].augments},
                frozen=[name for name in inputs.names if self.modalities[name].frozen],
                auxiliary=together.auxiliary if together else 0.0,
                modulate=together.modulate if together else 0.0,
                multipliers={name: self.modalities[name].learning_rate_multiplier for name in inputs.names},
                tasks=tasks,
                weights=self.problem.recipe.outcomes,
            ),
            self.problem.work,
            on_epoch=self.problem.on_epoch,
        )
        rescale(network, tasks, self.problem.tasks)

    def _out_of_fold(self, fusion: LateStack) -> dict[str, Float64]:
        """Return per modality the out-of-fold logits ``[patient]`` of the training patients, else NaN."""
        label = self._inner_label(fusion)
        if label in self.inner:
            return self.inner[label]
        folds = self._inner_folds(fusion)
        logits = {name: np.full(len(self.problem.labels), np.nan) for name in self.inputs.names}
        for fold in range(folds.max() + 1):
            train, test = self.train[folds != fold], self.train[folds == fold]
            modalities, inputs = self.problem.fitted(train)
            split = f"{self.name}/{label}{fold}"
            self.begin(split, train, modalities, inputs)
            for name in self.inputs.names:
                network = self._alone(name, modalities, inputs, train, split)
                have = self._having(name, test)
                logits[name][have] = predict(network, inputs.only([name]), have)
        self.inner[label] = logits
        return logits

    def _inner_label(self, fusion: LateStack) -> str:
        """Return what the inner fits are called: stacks over the same inner folds share them."""
        asked = [(f.inner_folds, f.smallest_class) for f in stacks(self.problem.recipe)]
        place = asked.index((fusion.inner_folds, fusion.smallest_class))
        return f"inner{place}of" if place else "inner"

    def _inner_folds(self, fusion: LateStack) -> Ints:
        labels = self.problem.labels[self.train]
        present = self.inputs.present[self.train]
        strata = [f"{label}{row.tolist()}" for label, row in zip(labels, present, strict=True)]
        keys = [self.problem.keys[row] for row in self.train]
        prefix, told, outer = self.name.rpartition("fold")
        if told and prefix in self.problem.inner:  # a refit is of no fold
            folds: Ints = self.problem.inner[prefix][self.train, int(outer)]
            if smallest_class(labels, present, folds) >= fusion.smallest_class:
                return folds
            raise FittingError(
                f"{self.name}: late_stack needs at least {fusion.smallest_class} patients of each class per"
                " modality in each inner fold; lower splits.inner_folds of the cohort, or leave it out"
            )
        for count in range(fusion.inner_folds, 1, -1):
            folds = deal(strata, keys, folds=count, seed=self.problem.seed(self.name))
            if smallest_class(labels, present, folds) >= fusion.smallest_class:
                return folds
        raise FittingError(
            f"{self.name}: late_stack needs at least {fusion.smallest_class} patients of each class per "
            "modality in each of two inner folds; use fusion `concat`, or drop the modality that few have"
        )

    def score(self, network: Network) -> Float64:
        """Return a network's logits of the test patients; NaN of those who have none of its modalities."""
        names, logits = network.names, self.problem.blank(len(self.test))
        known = self._any_present(names, self.test)
        logits[known] = predict(network, self.inputs.only(names), self.test[known])
        return logits

    def _any_present(self, names: Sequence[str], rows: Ints) -> Bools:
        return np.asarray(self.inputs.only(names).present[rows].any(axis=1))

    def _having(self, name: str, rows: Ints) -> Ints:
        return rows[self.inputs.prepared[name].row_of[rows] >= 0]

    def _vectors(self, names: Sequence[str], rows: Ints) -> Any:
        return np.concatenate([self.inputs.prepared[name].array[rows] for name in names], axis=1)


def stacks(recipe: Recipe) -> list[LateStack]:
    """Return the stacks of a recipe that differ in what is fitted inside a split."""
    found: dict[tuple[int, int], LateStack] = {}
    for fusion in recipe.fusions.values():
        if isinstance(fusion, LateStack):
            found.setdefault((fusion.inner_folds, fusion.smallest_class), fusion)
    return list(found.values())
