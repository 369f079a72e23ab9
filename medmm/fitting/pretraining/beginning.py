"""What the encoders of one split begin with: who is pretrained on, and what must hold before that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from medmm.arrays import Ints
from medmm.errors import ConfigError, FittingError
from medmm.fitting.checkpoint import History
from medmm.fitting.inputs import Inputs, Prepared, prepare_table
from medmm.fitting.pretraining.learners import FEWEST, LEARNERS
from medmm.fitting.pretraining.loop import Lesson, Weights, pretrain
from medmm.fitting.pretraining.pool import Pool
from medmm.modalities.tables import Table
from medmm.modality import Modality
from medmm.network.fusion import fusion_class
from medmm.recipe import Joint, Pretraining

if TYPE_CHECKING:
    from medmm.fitting.candidates import Problem


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Encoders that were pretrained ahead of a run.

    Attributes:
        objective: what they learned.
        patients: on how many.
        sha256: of the manifest; names the folder they came from.
        modalities: fitted as they were then; the weights belong to this preparation.
        weights: of their encoders.
        cohort_digest: of the cohort that they were pretrained on, its division included.
        doubt: what cannot be known of the patients held out here; empty where nobody saw them.
    """

    objective: str
    patients: int
    sha256: str
    modalities: Mapping[str, Modality]
    weights: Weights
    cohort_digest: str = ""
    doubt: str = ""

    @property
    def notice(self) -> str:
        """What a reader of a run's figures must know."""
        return (
            f"{', '.join(self.weights)} begin with weights pretrained on {self.patients} patients"
            f" ({self.objective}, {self.sha256[:12]}); inputs of test folds were among them, labels were not:"
            " a `pretraining` block without `pretrained` keeps them apart"
        )


def pretrained_on_split(
    problem: Problem, train: Ints, name: str, modalities: Mapping[str, Modality], inputs: Inputs
) -> tuple[Weights, History | None]:
    """Return what the encoders of a split begin with, and what happened while they learned it.

    Args:
        train: rows of the split's training patients; with the unlabelled ones they are all that is seen.
        name: of the split ("fold0").
        modalities: fitted on the split.
        inputs: of everybody, prepared with them.

    Raises:
        FittingError: if the objective suits too few patients, or pretraining fails.
        ConfigError: if the objective does not suit the recipe.
    """
    if problem.pretrained is not None:
        return problem.pretrained.weights, None
    if problem.recipe.pretrained_within is None:
        return {}, None
    lesson = lesson_for(problem, train, f"{name}/pretraining", modalities, inputs)
    return pretrain(lesson, problem.work, on_epoch=problem.on_epoch)


def lesson_for(
    problem: Problem, train: Ints, name: str, modalities: Mapping[str, Modality], inputs: Inputs
) -> Lesson:
    """Return the learner of a recipe's objective and the patients it learns from.

    Raises:
        FittingError: if the objective suits too few patients.
        ConfigError: if the objective does not suit the recipe.
    """
    settings = problem.recipe.pretraining
    assert settings is not None
    names = _names(settings, problem, modalities)
    pool = _pool(problem, train, names, modalities, inputs)
    images = [k for k, n in enumerate(names) if n in problem.images]
    tables = [k for k, n in enumerate(names) if n not in problem.images]
    present = torch.from_numpy(pool.present)
    made = LEARNERS[settings.objective]
    suits = made.suits(present[:, images].any(dim=1), present[:, tables].any(dim=1)).numpy()
    if suits.sum() < FEWEST:
        what = {"contrastive": "an image and a table", "masked_columns": "a table", "simclr": "an image"}
        raise FittingError(
            f"{name}: {int(suits.sum())} of {len(pool)} training patients have {what[settings.objective]},"
            f" and `{settings.objective}` needs {FEWEST}; take another objective, or see `medmm cohort check`"
        )
    seed = problem.seed(name)
    torch.manual_seed(seed)
    chosen = {each: modalities[each] for each in names}
    return Lesson(name, made(chosen, settings, pool.kept(suits)), pool.kept(suits), seed)


def fill(encoder: nn.Module, weights: Mapping[str, torch.Tensor] | None) -> None:
    """Put pretrained weights into a fresh encoder; None leaves it."""
    if weights:
        encoder.load_state_dict(dict(weights))


def check(problem: Problem, modalities: Mapping[str, Modality], inputs: Inputs) -> tuple[str, ...]:
    """Refuse what cannot be pretrained before anything is; return what a reader must know.

    Raises:
        FittingError: if the objective suits too few patients.
        ConfigError: if it does not suit the recipe, or pretrained weights would go nowhere.
    """
    if problem.pretrained is not None:
        _check_fusions(problem, list(problem.pretrained.weights))
        for name, weights in problem.pretrained.weights.items():
            fill(modalities[name].encoder(), weights)
        return tuple(filter(None, (problem.pretrained.notice, problem.pretrained.doubt)))
    if problem.recipe.pretrained_within is None:
        return ()
    lesson = lesson_for(problem, np.arange(len(problem.labels)), "pretraining", modalities, inputs)
    _check_fusions(problem, lesson.learner.names)
    return ()


def _names(settings: Pretraining, problem: Problem, modalities: Mapping[str, Modality]) -> list[str]:
    """Return the modalities that an objective looks at, in the recipe's order."""
    images, tables = LEARNERS[settings.objective].takes
    names = [
        name
        for name, modality in modalities.items()
        if (images and name in problem.images) or (tables and isinstance(modality, Table))
    ]
    found = [n for n in names if n in problem.images], [n for n in names if n not in problem.images]
    _check_kinds(settings, problem, *found)
    for name in names:
        if modalities[name].frozen:
            raise ConfigError(
                f"pretraining would change the encoder of {name}, which the recipe wants `frozen`; leave out"
                " the one or the other"
            )
        if settings.objective == "simclr" and not modalities[name].augments:
            raise ConfigError(
                f"pretraining `simclr` compares two random views of {name}, and without `augment` both are"
                " the same; say how its images may vary"
            )
    _check_fields(settings, modalities, *found)
    return names


def _check_kinds(settings: Pretraining, problem: Problem, images: list[str], tables: list[str]) -> None:
    asked = {"contrastive": (1, 1), "masked_columns": (0, 1), "simclr": (1, 0)}[settings.objective]
    for found, least, what in zip((images, tables), asked, ("an image", "a table"), strict=True):
        if len(found) < least:
            have = ", ".join(problem.modalities)
            raise ConfigError(
                f"pretraining `{settings.objective}` learns from {what}, and recipe {problem.recipe.name} has"
                f" none, only {have}; take another objective"
            )


def _check_fields(
    settings: Pretraining, modalities: Mapping[str, Modality], images: list[str], tables: list[str]
) -> None:
    fields = sum(len(modalities[name].players()) for name in tables)
    if settings.objective == "masked_columns" and fields < FEWEST and not images:
        raise ConfigError(
            f"pretraining `masked_columns` tells a hidden field from the others, and {', '.join(tables)} has"
            f" {fields}; give it more fields, or take another objective"
        )


def _check_fusions(problem: Problem, names: list[str] | tuple[str, ...]) -> None:
    """Refuse a fusion that takes fields one by one and so has no encoder of the table to begin with."""
    for fusion in problem.recipe.fusions.values():
        if not isinstance(fusion, Joint):
            continue
        takes = fusion_class(fusion.kind).takes
        for name in names:
            form = next((form for form in takes if form in problem.modalities[name].gives), None)
            if form == "tokens":
                raise ConfigError(
                    f"fusion `{fusion.kind}` takes the fields of {name} one by one, so its pretrained encoder"
                    " would go unused; take a fusion of vectors, or an objective of images alone"
                )


def _pool(
    problem: Problem, train: Ints, names: list[str], modalities: Mapping[str, Modality], inputs: Inputs
) -> Pool:
    """Return a split's training patients and the unlabelled ones who may join them; nobody else."""
    parts = [(inputs.only(names), train)]
    if problem.unlabelled is not None:
        others = problem.unlabelled
        further = Inputs(
            {
                name: _beside(others.images[name], inputs.prepared[name])
                if name in others.images
                else prepare_table(modalities[name], others.rows[name])
                for name in names
            }
        )
        parts.append((further, others.joining(train)))
    return Pool(tuple(parts))


def _beside(images: Prepared, labelled: Prepared) -> Prepared:
    """Return the images of the unlabelled; where none was stored, nobody's, in the shape of the others."""
    if len(images.array):
        return images
    return replace(images, array=labelled.array[:0])
