"""Before the first story: encoders learn from the training split without its labels, and are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medmm import running, tracking
from medmm.cohort.access import open_cohort
from medmm.cohort.link import Cohort
from medmm.cohort.spec import load_spec
from medmm.cohort.split import assign, decide
from medmm.cohort.wholes import TRAIN
from medmm.errors import ConfigError, OutputError, told
from medmm.fitting.assemble import assemble, weights_named
from medmm.fitting.candidates import Problem
from medmm.fitting.checkpoint import History
from medmm.fitting.pretraining import seen
from medmm.fitting.pretraining.beginning import check, lesson_for
from medmm.fitting.pretraining.bundle import save
from medmm.fitting.pretraining.loop import pretrain as descend
from medmm.fitting.processes import count
from medmm.outcome import columns
from medmm.recipe import Recipe, check_outcome, cohort_folder, load_recipe

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Learned:
    """What pretraining left.

    Attributes:
        folder: of the pretrained encoders.
        sha256: names them.
        patients: who were pretrained on.
        labelled: of them, with a label, which was not looked at.
    """

    folder: Path
    sha256: str
    modalities: tuple[str, ...]
    patients: int
    labelled: int
    history: History

    def lines(self) -> list[str]:
        """Return what a reader at a terminal wants to know."""
        first, last = self.history.epochs[0], self.history.epochs[-1]
        told = f"loss     {first['loss']:.3f} in the first epoch, {last['loss']:.3f} in the last"
        if "retrieved" in last:
            told += f"; {100 * last['retrieved']:.0f} % of a batch found their other half"
        return [
            f"patients {self.patients} of the training split, {self.labelled} of them with a label, not"
            " looked at",
            told,
            f"encoders {', '.join(self.modalities)} in {self.folder}",
            f"sha256   {self.sha256}",
        ]


def pretrain(
    pipeline: Path,
    folder: Path,
    *,
    runs: Path,
    root: Path | None = None,
    splits: Path | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Pretrain a recipe's encoders on the training split; the held-out patients are left alone.

    The same command takes up what it left where it was stopped.

    Args:
        pipeline: folder with recipe.yaml, or the file; its block ``pretraining`` says how.
        folder: where the pretrained encoders go.
        runs: folder of all runs: prepared images, the stopped state and the tracking store.
        root: folder of the data, when cohort.yaml does not say.
        splits: splits.json of another run, in place of what cohort.yaml says.

    Raises:
        ConfigError: if the recipe has no such block, it does not suit the modalities, another command does
            the same already, or there are several processes.
        FittingError: if the objective suits too few patients, or pretraining cannot go on.
        OutputError: if a folder cannot be written.
    """
    _check_processes()
    recipe = _recipe(pipeline)
    _check_place(folder)
    where = cohort_folder(recipe, pipeline)
    check_outcome(recipe, load_spec(where))
    linked, division = decide(open_cohort(where, root, progress=progress), folder=where, file=splits)
    cohort = assign(linked, division)
    begun = weights_named(recipe, cohort.declarations)
    order = json.dumps(running.columns_of(cohort.declarations))
    work = _work(runs, recipe, cohort.digest, order, division.digest, *begun)
    problem = _problem(recipe, cohort, work, runs / "cache", progress)
    rows = np.arange(len(problem.labels))
    modalities, inputs = problem.fitted(rows)
    check(problem, modalities, inputs)
    lesson = lesson_for(problem, rows, "pretraining", modalities, inputs)
    with (
        running.held(work),
        tracking.tracked(recipe.name, "pretraining", uri=tracking.store(runs)) as tracked,
    ):
        settings = lesson.learner.settings
        tracked.params({"pretraining": settings.model_dump(mode="json"), "seed": recipe.seed})
        tracked.dataset(cohort.spec.name, cohort.digest)
        weights, history = descend(lesson, work, on_epoch=problem.on_epoch)
        tracked.epochs(enumerate(history.epochs))
        size, digest = len(lesson.pool), cohort.digest
        sha256 = save(folder, settings, modalities, weights, history, patients=size, cohort_digest=digest)
        seen.note(runs, sha256, _members(problem, cohort))
        tracked.tag("pretrained", sha256)
    known = columns(problem.labels)[lesson.pool.parts[0][1]]
    labelled = int(np.isfinite(known).any(axis=1).sum())
    return Learned(folder, sha256, tuple(weights), size, labelled, history)


def _problem(recipe: Recipe, cohort: Cohort, work: Path, cache: Path, progress: Progress | None) -> Problem:
    """Prepare the training split, the labelled apart as ``medmm train`` does: one finds the other's work."""
    everybody = [patient for patient in cohort.patients if patient.split == TRAIN]
    labelled = [p for p in everybody if any(name in p.targets for name in recipe.asked)]
    epochs = recipe.pretraining.epochs if recipe.pretraining else 0

    def on_epoch(name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        if progress:
            progress("pretraining", epoch + 1, epochs)

    patients = labelled or everybody
    return assemble(recipe, cohort, patients, work=work, cache=cache, progress=progress, on_epoch=on_epoch)


def _members(problem: Problem, cohort: Cohort) -> Sequence[str]:
    """Return the pseudonyms of all whose inputs were looked at."""
    if problem.unlabelled is None:
        return problem.pseudonyms
    return [patient.pseudonym for patient in cohort.patients if patient.split == TRAIN]


def _check_processes() -> None:
    if count() > 1:
        raise ConfigError(
            "`medmm pretrain` is of one process; start it without torchrun, and `medmm train` with it"
        )


def _recipe(pipeline: Path) -> Recipe:
    recipe = load_recipe(pipeline)
    if recipe.pretraining is None:
        raise ConfigError(
            f"recipe {recipe.name} has no `pretraining` block; say what is learned, for instance"
            " `pretraining: {objective: contrastive}`"
        )
    alone = recipe.model_copy(update={"pretrained": None})
    alone._folder = recipe._folder
    return alone


def _check_place(folder: Path) -> None:
    if folder.exists() and not (folder / "pretrained.json").is_file():
        raise OutputError(f"{folder} is there and holds no pretrained encoders; choose another --out")


def _work(runs: Path, recipe: Recipe, *digests: str) -> Path:
    """Return the folder of what is half done, the same for the same recipe, cohort, weights and version."""
    keys = {"modalities", "pretraining", "outcome", "outcomes", "seed"}
    shown = [version("medmm"), recipe.model_dump(mode="json", include=keys)]
    named = hashlib.sha256(json.dumps([shown, *digests]).encode()).hexdigest()[:16]
    work = runs / "pretraining" / named
    running.make_private(runs)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write to {str(runs)!r}: {told(error)}; choose another --runs") from error
    return work
