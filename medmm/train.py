"""The first story: a recipe and a cohort become a judged, sealed and tracked bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medmm import choosing, running, searching, tracking
from medmm.arrays import Ints
from medmm.bundle import verify
from medmm.cluster import joined
from medmm.cohort.access import open_cohort
from medmm.cohort.link import Cohort
from medmm.cohort.outcomes import counted
from medmm.cohort.spec import data_root, load_spec
from medmm.cohort.split import assign, check_folds, decide
from medmm.columns import ImageSpec
from medmm.errors import ConfigError
from medmm.fitting.ahead import one_thread
from medmm.fitting.assemble import assemble, outer_folds, tasks_of, training_patients
from medmm.fitting.candidates import Problem
from medmm.fitting.counting import Epochs
from medmm.fitting.crossval import OutOfFold, final_network, fits, repeat
from medmm.fitting.learned import unlearned
from medmm.fitting.partition import deal
from medmm.fitting.pretraining import seen
from medmm.fitting.processes import count, from_leader, leader_first, leads
from medmm.fitting.proposing import proposed
from medmm.fitting.rehearsal import Rehearsal
from medmm.fitting.rehearsal import rehearse as rehearsed
from medmm.fitting.search import FINAL
from medmm.planning.machine import side_by_side as jobs_of
from medmm.planning.machine import this_machine
from medmm.private import write_private
from medmm.recipe import LateStack, Recipe, check_outcome, check_search, cohort_folder, load_recipe
from medmm.redteam.record import record
from medmm.report.images import Tile, contact_sheet
from medmm.report.page import write_page
from medmm.report.training import render_training
from medmm.running import make_private, open_run
from medmm.sample import Patient
from medmm.sealing import seal, shipped
from medmm.telling import Plan, Trained, summary, track, track_images, training_page

__all__ = [
    "Plan",
    "Trained",
    "count",
    "follow",
    "leads",
    "open_run",
    "plan",
    "rehearse",
    "search",
    "side_by_side",
    "summary",
    "train",
]

Progress = Callable[[str, int, int], None]

SHEET_TILES = 24
"""Patients on a contact sheet."""

SMOKE_PATIENTS = 80
"""Patients of a smoke run: enough for two folds of both classes, few enough for a minute."""
REHEARSAL = "A rehearsal, two epochs on few patients: none of its figures and scores means anything."
"""The intended use of a smoke run's bundle, and its first line."""


def plan(
    pipeline: Path,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    smoke: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Read a recipe and link its cohort.

    Args:
        pipeline: folder with recipe.yaml, or the file.
        root: folder of the data, when cohort.yaml does not say.
        splits: splits.json of another run, in place of what cohort.yaml says.
        smoke: shrink everything, to see in a minute whether it runs.
    """
    recipe = load_recipe(pipeline)
    folder = cohort_folder(recipe, pipeline)
    check_outcome(recipe, load_spec(folder))
    searching.check_processes(recipe, count())
    with leader_first():
        linked = open_cohort(folder, root, progress=progress)
    check_search(recipe, linked.declarations)
    linked, division = decide(linked, folder=folder, file=splits)
    cohort = assign(linked, division)
    patients = training_patients(cohort, recipe)
    more: tuple[Ints, ...] = ()
    if smoke:
        recipe, patients = _smaller(recipe, cohort, patients)
    else:
        for name in recipe.asked:
            if linked.spec.outcomes[name].kind == "binary":
                check_folds(linked, division, name)
        more = choosing.further_folds(recipe, linked, division, patients)
    folds = outer_folds(patients)
    if smoke:
        labels = dealt_by(recipe, cohort, patients)
        folds = deal(labels, [patient.subject_id for patient in patients], folds=2, seed=recipe.seed)
    notice = choosing.notice(recipe, cohort, patients, len(more))
    where = data_root(linked.spec, root)
    inner = {} if smoke else choosing.inner_folds(linked, division, patients, more)
    return Plan(folder, recipe, linked.spec, cohort, division, patients, folds, where, more, notice, inner)


def train(
    planned: Plan,
    run: Path,
    *,
    register: bool = True,
    jobs: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Fit, judge, seal and track.

    Args:
        planned: from :func:`plan`.
        run: the folder of this run, from :func:`open_run`; finished fits in it are not repeated, and a bundle
            that was sealed before the run was stopped stays.
        register: whether the model is registered under the recipe's name.
        jobs: splits that are fitted at a time, each on one thread; without it one, on as many threads as
            torch takes. Any number of jobs gives the same bits; another number of threads does not.
        cluster: where the trials of a search run (:func:`medmm.cluster.mapped`).
        progress: called with (stage, done, total).

    Raises:
        ConfigError: if another command is at work in the run.
        FittingError: if training cannot go on.
        BundleError: if the run was taken up and its sealed bundle is not what was written.
    """
    with _at_work(planned, run, jobs, cluster) as tracked:
        problem = _problem(planned, run, progress, jobs or 1)
        notices = choosing.checked(problem, (planned.folds, *planned.more), planned.notice)
        search = searching.searcher(planned, problem, run, tracked, cluster, progress)
        jobs = 1 if search else jobs or 1  # every fold's fits wait for its own search
        out_of_fold = repeat(replace(problem, searched=search), planned.folds, planned.more, jobs=jobs)
        notices += unlearned(problem, out_of_fold)
        worst = _red_team(planned, run, tracked) if register else None  # no smoke run
        choice = choosing.choose(problem, out_of_fold, worst_finding=worst)
        sealed = running.sealed(run)
        from_leader(json.dumps(None if sealed else shipped(choice)))
        if search is not None:
            problem = search(np.arange(len(planned.patients)), FINAL)
            choice = replace(choice, search=search.to_json())
            notices += tuple(search.sentences())
        sha256 = verify(run / "bundle") if sealed else _sealed(planned, problem, run, out_of_fold, choice)
        page = render_training(training_page(planned, out_of_fold, choice, sha256, notices))
        write_page(page, run / "training.html")
        tracked.text("training.html", page)
        track(tracked, planned, out_of_fold, choice.judgements)
        choosing.track(tracked, choice)
        track_images(tracked, problem)
        if worst is not None:
            choosing.register(tracked, run / "bundle", planned.recipe.name, choice.decision)
    running.finish(run, sha256)
    told = (choice.decision, choice.routing, worst, notices)
    return Trained(run, run / "bundle", sha256, choice.judgements, *told)


@contextmanager
def _at_work(planned: Plan, run: Path, jobs: int | None, cluster: str | None) -> Iterator[tracking.Run]:
    """Hold a run's folder, the cluster and the number of threads, and track what is done."""
    threads = nullcontext() if jobs is None else one_thread()
    with running.held(run), joined(cluster), threads, running.tracked(planned.recipe.name, run) as found:
        yield found


def _red_team(planned: Plan, run: Path, tracked: tracking.Run) -> str | None:
    """Look for leaks and shortcuts; return the worst grade of what was found."""
    return record(tracked, planned.cohort, run, planned.root, planned.recipe.asked, planned.splits)


def _sealed(
    planned: Plan, problem: Problem, run: Path, out_of_fold: OutOfFold, choice: choosing.Choice
) -> str:
    """Seal the model that was chosen; return the bundle's hash."""
    return seal(
        problem,
        out_of_fold,
        choice.judgements,
        run=run,
        spec=planned.spec,
        cohort_digest=planned.cohort.digest,
        chosen=choice,
    )


def side_by_side(planned: Plan) -> int | None:
    """Return how many splits this machine should fit at a time; None for one, on all threads."""
    if count() > 1:
        return None
    divisions = (planned.folds, *planned.more)
    return jobs_of(this_machine(), sum(int(folds.max()) + 1 for folds in divisions))


def follow(planned: Plan, run: Path) -> None:
    """Fit with the other processes of :func:`train`; the leader alone judges, seals and tracks.

    Every process that ``torchrun`` started makes the same plan, and all but the leader come here.

    Args:
        run: the folder of this run, from :func:`open_run`.

    Raises:
        FittingError: if training cannot go on.
    """
    problem = _problem(planned, run, None)
    choosing.checked(problem, (planned.folds, *planned.more), planned.notice)
    out_of_fold = repeat(problem, planned.folds, planned.more)
    asked = json.loads(from_leader(""))
    if asked is not None:  # else the leader has its bundle, from before the run was stopped
        final_network(problem, out_of_fold, asked)


def _problem(planned: Plan, run: Path, progress: Progress | None, jobs: int = 1) -> Problem:
    with leader_first():
        problem = _assembled(planned, run.parent, run / "fits", progress)
    return replace(problem, inner=planned.inner, on_epoch=_epochs(progress, planned, jobs))


def _assembled(planned: Plan, runs: Path, work: Path, progress: Progress | None) -> Problem:
    """Return what is fitted; no encoders to begin with that have seen whom this run holds out."""
    problem = assemble(
        planned.recipe, planned.cohort, planned.patients, work=work, cache=runs / "cache", progress=progress
    )
    if problem.pretrained is None:
        return problem
    told = replace(problem.pretrained, doubt=seen.doubt(problem.pretrained, planned.cohort, runs))
    return replace(problem, pretrained=told)


def search(
    planned: Plan, run: Path, *, cluster: str | None = None, progress: Progress | None = None
) -> list[str]:
    """Search settings among all training patients, as :func:`train` does for the final model.

    A run that is trained in the same folder goes on from there. The lines returned tell the best trials.

    Raises:
        ConfigError: if the recipe has no search.
        FittingError: if no trial could be finished.
    """
    recipe = planned.recipe
    if recipe.search is None:
        raise ConfigError(f"recipe {recipe.name} has no `search`; docs/search.md shows one")
    with _at_work(planned, run, None, cluster) as tracked:
        problem = _problem(planned, run, progress)
        choosing.checked(problem, (planned.folds, *planned.more), planned.notice)
        found = searching.searcher(planned, problem, run, tracked, cluster, progress)
        assert found is not None
        found.studies = 1
        found(np.arange(len(planned.patients)), FINAL)
    return found.found[FINAL].lines()


def rehearse(planned: Plan, runs: Path, *, progress: Progress | None = None) -> list[str]:
    """Do everything but fit: flow, shapes, cost, the plan, and a contact sheet of what the network sees.

    The prepared images stay in the cache, so the run that follows starts at once.
    """
    recipe = planned.recipe
    make_private(runs)
    problem = _assembled(planned, runs, runs / "rehearsal", progress)
    notices = choosing.checked(problem, (planned.folds, *planned.more), planned.notice)
    rehearsal = rehearsed(problem, planned.folds, again=len(planned.more), jobs=side_by_side(planned))
    lines = [account.line() for account in planned.cohort.flow.accounts]
    for name in recipe.asked:
        known = [patient.targets[name] for patient in planned.patients if name in patient.targets]
        spec = planned.spec.outcomes[name]
        told = f"{int(sum(known))} positive" if spec.kind == "binary" else counted(spec, known)
        lines.append(f"training {len(known)} patients, {told}, {name}")
    lines += [f"notice   {notice}" for notice in notices]
    lines += _costs(rehearsal, 1 + len(planned.more)) + searching.cost(planned)
    plan = proposed(problem, planned.cohort, planned.patients, progress=progress)
    lines += plan.lines
    for what, found in (("fingerprint", plan.fingerprint), ("plan", plan.plan)):
        write_page(json.dumps(found.to_json(), indent=1) + "\n", runs / f"{recipe.name}-{what}.json")
        lines.append(f"wrote    {runs / recipe.name}-{what}.json")
    return lines + _contact_sheets(problem, runs)


def _costs(rehearsal: Rehearsal, repeats: int) -> list[str]:
    """Return what each modality, pretraining and the whole run cost."""
    lines = [
        f"{cost.name:<12} {cost.patients} patients, input {cost.shape}, {cost.parameters:,} parameters, "
        f"{1000 * cost.seconds_per_step:.0f} ms a step"
        for cost in rehearsal.costs
    ]
    if rehearsal.ahead is not None:
        lines.append(
            f"pretraining  {rehearsal.ahead.patients} patients, "
            f"{1000 * rehearsal.ahead.seconds_per_step:.0f} ms a step, {rehearsal.ahead.times} times"
        )
    lines.append(
        f"cost     {rehearsal.networks} networks, at most {max(1, rehearsal.seconds / 60):.0f} min here, "
        f"{rehearsal.peak_gigabytes:.1f} GB"
        + (f", {repeats} cross-validations with other folds" if repeats > 1 else "")
    )
    return lines


def _contact_sheets(problem: Problem, runs: Path) -> list[str]:
    """Draw what the network sees of some patients, a file per image, and return a line about each."""
    lines = []
    for name, prepared in problem.images.items():
        if not problem.modalities[name].pictured:
            continue
        sheet = runs / f"{problem.recipe.name}-{name}.png"
        kind = problem.modalities[name].declaration
        assert isinstance(kind, ImageSpec)
        tiles = [
            Tile(np.asarray(prepared.array[row], np.float32), kind.kind, f"{row + 1}")
            for row in range(min(SHEET_TILES, len(prepared.array)))
        ]
        write_private(contact_sheet(tiles), sheet)
        lines.append(f"look at  {sheet}: what the network sees of {name}")
    return lines


def dealt_by(recipe: Recipe, cohort: Cohort, patients: Sequence[Patient]) -> list[str]:
    """Return the group of each patient by the first outcome, in which a smoke run deals them."""
    first = recipe.asked[0]
    task = tasks_of(recipe, cohort, patients)[0]
    if task.kind == "binary" and len(recipe.asked) == 1:
        return [f"{patient.targets[first]}" for patient in patients]
    labels = np.array([patient.targets.get(first, np.nan) for patient in patients], dtype=np.float64)
    return [f"{group}" for group in task.strata(labels)]


def _smaller(recipe: Recipe, cohort: Cohort, patients: Sequence[Patient]) -> tuple[Recipe, list[Patient]]:
    """Keep the smoke run's patients, every class and every modality among them, and two epochs."""
    groups = dealt_by(recipe, cohort, patients)
    labels = [
        f"{group}{sorted(n for n, s in p.sources.items() if s)}"
        for group, p in zip(groups, patients, strict=True)
    ]
    share = max(1, len(patients) // SMOKE_PATIENTS)
    chosen = deal(labels, [patient.subject_id for patient in patients], folds=share, seed=recipe.seed) == 0
    shorter = {"inner_folds": 2, "smallest_class": 2}
    fusion, *rest = (
        fusion.model_copy(update=shorter) if isinstance(fusion, LateStack) else fusion
        for fusion in (recipe.fusion, *recipe.comparison.fusions)
    )
    fitting = recipe.fitting.model_copy(update={"epochs": 2})
    comparison = recipe.comparison.model_copy(update={"resamples": 200, "fusions": tuple(rest)})
    shrunk: dict[str, Any] = {"fitting": fitting, "fusion": fusion, "comparison": comparison}
    shrunk["intended_use"] = REHEARSAL
    if recipe.search is not None:
        shrunk["search"] = recipe.search.model_copy(update={"trials": 2, "folds": 2})
    if recipe.pretraining is not None:
        shrunk["pretraining"] = recipe.pretraining.model_copy(update={"epochs": 2, "unlabelled": False})
    small = recipe.model_copy(update=shrunk)
    return small, [patient for patient, keep in zip(patients, chosen, strict=True) if keep]


def _epochs(
    progress: Progress | None, planned: Plan, jobs: int
) -> Callable[[str, int, Mapping[str, float]], None]:
    """Count epochs over all fits for one progress bar; a fit that stops early jumps to its end."""
    epochs = planned.recipe.fitting.epochs
    declarations = planned.cohort.declarations
    tables = sum(not isinstance(declarations[name], ImageSpec) for name in planned.recipe.modalities)
    total = epochs * fits(planned.recipe, tables, (int(planned.folds.max()) + 1) * (1 + len(planned.more)))
    counted = Epochs(epochs, jobs)

    def report(name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        if name.endswith("/pretraining"):
            if progress and planned.recipe.pretraining:
                progress("pretraining", epoch + 1, planned.recipe.pretraining.epochs)
            return
        done = counted.count(name, epoch)
        if progress:
            progress("fitting", done, total)

    return report
