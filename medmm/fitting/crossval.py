"""Outer folds: every training patient is scored by models that have not seen that patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.errors import FittingError
from medmm.fitting.ahead import Split, fit_ahead
from medmm.fitting.candidates import Problem, SplitFit, fit_split, stacks
from medmm.fitting.checkpoint import History
from medmm.modality import Modality, stacked
from medmm.network.network import Ensemble, Network
from medmm.outcome import scored as known
from medmm.recipe import Joint, LateStack, Recipe


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold logits of every candidate, and the fitted folds.

    Attributes:
        logits: per model, ``[patient]`` or ``[patient, output]``; NaN where the model cannot score the
            patient.
        folds: ``[patient]``, the fold whose models scored the patient.
        more: further repeats of the cross-validation, each with other folds; their networks are not kept.
    """

    logits: Mapping[str, Float64]
    folds: Ints
    splits: tuple[SplitFit, ...]
    more: tuple[OutOfFold, ...] = ()

    @property
    def repeated_folds(self) -> Ints:
        """The folds of every repeat, ``[repeat, patient]``."""
        return np.stack([self.folds, *(repeat.folds for repeat in self.more)])

    def repeated(self, model: str) -> Float64:
        """Return a model's logits of every repeat, ``[repeat, patient]``."""
        return np.stack([self.logits[model], *(repeat.logits[model] for repeat in self.more)])

    @property
    def histories(self) -> dict[str, History]:
        """Every fit's history, by the fit's name."""
        return {name: history for split in self.splits for name, history in split.histories.items()}


def repeat(problem: Problem, folds: Ints, more: Sequence[Ints], *, jobs: int = 1) -> OutOfFold:
    """Cross-validate, and again with each other division; only the first one's networks are kept.

    Args:
        folds: ``[patient]``, 0 … K-1.
        more: further divisions.
        jobs: splits that are fitted at a time, each in a process with one thread.
    """
    named = {"": folds} | {f"repeat{place}/": other for place, other in enumerate(more, start=2)}
    if jobs > 1:
        splits = [
            Split(np.flatnonzero(of != fold), f"{prefix}fold{fold}")
            for prefix, of in named.items()
            for fold in range(int(of.max()) + 1)
        ]
        fit_ahead(problem, splits, jobs=jobs)
    found = cross_validate(problem, folds)
    others = [
        replace(cross_validate(problem, other, prefix), splits=())
        for prefix, other in named.items()
        if prefix
    ]
    models = [model for model in found.logits if all(model in other.logits for other in others)]
    return replace(found, logits={m: found.logits[m] for m in models}, more=tuple(others))


def cross_validate(problem: Problem, folds: Ints, prefix: str = "") -> OutOfFold:
    """Fit every candidate on all folds but one, and score that one; for each fold.

    Args:
        folds: ``[patient]``, 0 … K-1.
        prefix: of the fits' names, from which their seeds come.

    Raises:
        FittingError: if a fold has patients of one class only.
    """
    logits: dict[str, Float64] = {}
    splits = []
    for fold in range(int(folds.max()) + 1):
        test = np.flatnonzero(folds == fold)
        if len(np.unique(problem.strata[test])) < 2:
            raise FittingError(
                f"fold {fold + 1} has one class only of {problem.tasks[0].named}; use fewer folds"
            )
        split = fit_split(problem, np.flatnonzero(folds != fold), test, f"{prefix}fold{fold}")
        for model, values in split.logits.items():
            logits.setdefault(model, problem.blank(len(folds)))[test] = values
        splits.append(split)
    # The tables alone are no model of their own in folds whose search took a joint fusion of nothing else.
    everywhere = {m: values for m, values in logits.items() if all(m in split.logits for split in splits)}
    return OutOfFold(everywhere, folds, tuple(splits))


@dataclass(frozen=True, slots=True)
class Final:
    """What goes into the bundle.

    Attributes:
        modalities: fitted.
        network: the fused one.
        members: how many networks it joins.
        submodels: by model, further networks of the same members.
    """

    modalities: Mapping[str, Modality]
    network: Network
    members: int
    submodels: Mapping[str, Network] = field(default_factory=dict)


def final_network(problem: Problem, out_of_fold: OutOfFold, submodels: Sequence[str] = ()) -> Final:
    """Join the folds' networks into an ensemble, or fit one on everybody, as the recipe says.

    Args:
        submodels: models that are shipped beside the fused one.
    """
    if problem.recipe.final_model == "refit":
        everybody = np.arange(len(problem.labels))
        split = fit_split(problem, everybody, everybody[:0], "refit", only=("fused", *submodels))
        further = {model: split.networks[model] for model in submodels}
        return Final(split.modalities, split.networks["fused"], 1, further)
    members = [split.modalities for split in out_of_fold.splits]
    modalities = {name: stacked([member[name] for member in members]) for name in problem.modalities}
    parts = {name: modality.splits for name, modality in modalities.items()}
    fused, *rest = (
        Ensemble.of([split.networks[model] for split in out_of_fold.splits], parts)
        for model in ("fused", *submodels)
    )
    return Final(modalities, fused, len(members), dict(zip(submodels, rest, strict=True)))


def fits(recipe: Recipe, tables: int, folds: int) -> int:
    """Return how many networks a run fits, for its progress bar."""
    names = len(recipe.modalities)
    inner = names * sum(stack.inner_folds for stack in stacks(recipe))
    joint = sum(isinstance(fusion, Joint) for fusion in recipe.fusions.values()) * (names > 1)
    own = isinstance(recipe.fusion, Joint)
    each = names + inner + joint + (own and 1 < tables < names)
    once = (
        1 if own else names * (1 + (recipe.fusion.inner_folds if isinstance(recipe.fusion, LateStack) else 0))
    )
    return each * folds + once * (recipe.final_model == "refit")


def scored(out_of_fold: OutOfFold, model: str) -> Bools:
    """Return which patients a model could score, ``[patient]``."""
    return known(out_of_fold.logits[model])
