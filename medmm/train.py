"""The first story: a recipe and a cohort become a judged, sealed and tracked bundle."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medmm import choosing, tracking
from medmm.arrays import Ints
from medmm.cohort.access import open_cohort
from medmm.cohort.link import Cohort
from medmm.cohort.spec import CohortSpec, data_root, load_spec
from medmm.cohort.split import Splits, assign, check_folds, decide
from medmm.columns import ImageSpec
from medmm.dicom import certificate_summary
from medmm.errors import ConfigError, OutputError, told
from medmm.evaluation.subgroups import Subgroup
from medmm.fitting.assemble import assemble, outer_folds, training_patients
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import OutOfFold, fits, repeat
from medmm.fitting.judgement import Judgement
from medmm.fitting.partition import deal
from medmm.fitting.promotion import Decision
from medmm.fitting.rehearsal import rehearse as rehearsed
from medmm.recipe import LateStack, Recipe, check_outcome, cohort_folder, load_recipe
from medmm.redteam.record import record
from medmm.report import plots
from medmm.report.choosing import choosing as chosen_sections
from medmm.report.facts import FlowStep, Predictor, Provenance
from medmm.report.images import Tile, contact_sheet
from medmm.report.page import write_page
from medmm.report.training import LearningCurve, TrainingPage, decided_table, render_training
from medmm.sample import Patient
from medmm.sealing import seal

Progress = Callable[[str, int, int], None]

SHEET_TILES = 24
"""Patients on a contact sheet."""

SMOKE_PATIENTS = 80
"""Patients of a smoke run: enough for two folds of both classes, few enough for a minute."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with the cohort that it names, linked.

    Attributes:
        folder: of the cohort.
        patients: those who are trained on.
        folds: ``[patient]``.
        more: the folds of further repeats of the cross-validation.
        notice: what must be known about few events; empty where they are not few.
    """

    folder: Path
    recipe: Recipe
    spec: CohortSpec
    cohort: Cohort
    splits: Splits
    patients: Sequence[Patient]
    folds: Ints
    root: Path
    more: tuple[Ints, ...] = ()
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run left behind; ``lines`` say it in words."""

    run: Path
    bundle: Path
    sha256: str
    judgement: Judgement
    decision: Decision | None = None
    notice: str = ""


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
    linked = open_cohort(folder, root, progress=progress)
    linked, division = decide(linked, folder=folder, file=splits)
    cohort = assign(linked, division)
    patients = training_patients(cohort, recipe.outcome)
    more: tuple[Ints, ...] = ()
    if smoke:
        recipe, patients = _smaller(recipe, patients)
    else:
        check_folds(linked, division, recipe.outcome)
        more = choosing.further_folds(recipe, linked, division, patients)
    folds = outer_folds(patients)
    if smoke:
        labels = [f"{patient.targets[recipe.outcome]}" for patient in patients]
        folds = deal(labels, [patient.subject_id for patient in patients], folds=2, seed=recipe.seed)
    notice = choosing.notice(recipe, patients, len(more))
    where = data_root(linked.spec, root)
    return Plan(folder, recipe, linked.spec, cohort, division, patients, folds, where, more, notice)


def train(planned: Plan, run: Path, *, register: bool = True, progress: Progress | None = None) -> Trained:
    """Fit, judge, seal and track.

    Args:
        run: the folder of this run, from :func:`open_run`; finished fits in it are not repeated.
        register: whether the model is registered under the recipe's name.

    Raises:
        FittingError: if training cannot go on.
    """
    recipe, runs = planned.recipe, run.parent
    tracked_as = run / "tracking.txt"
    earlier = tracked_as.read_text() if tracked_as.exists() else None
    with tracking.tracked(recipe.name, run.name, uri=tracking.store(runs), run_id=earlier) as tracked:
        tracked_as.write_text(tracked.run_id)
        problem = assemble(
            recipe,
            planned.cohort,
            planned.patients,
            work=run / "fits",
            cache=runs / "cache",
            progress=progress,
            on_epoch=_epochs(progress, planned),
        )
        notices = choosing.checked(problem, (planned.folds, *planned.more), planned.notice)
        out_of_fold = repeat(problem, planned.folds, planned.more)
        kept = (planned.cohort, run, planned.root, recipe.outcome, planned.splits)
        worst = record(tracked, *kept) if register else None  # no smoke run
        choice = choosing.choose(problem, out_of_fold, worst_finding=worst)
        sha256 = seal(
            problem,
            out_of_fold,
            choice.judgement,
            run=run,
            spec=planned.spec,
            cohort_digest=planned.cohort.digest,
            chosen=choice.to_json(),
        )
        page = run / "training.html"
        write_page(render_training(_page(planned, out_of_fold, choice, sha256, notices)), page)
        _track(tracked, planned, out_of_fold, choice.judgement)
        choosing.track(tracked, choice)
        _track_images(tracked, problem)
        tracked.text("training.html", page.read_text())
        if worst is not None:
            choosing.register(tracked, run / "bundle", recipe.name, choice.decision)
    return Trained(run, run / "bundle", sha256, choice.judgement, choice.decision, planned.notice)


def rehearse(planned: Plan, runs: Path, *, progress: Progress | None = None) -> list[str]:
    """Do everything but fit: flow, shapes, cost, and a contact sheet of what the network sees.

    The prepared images stay in the cache, so the run that follows starts at once.
    """
    recipe = planned.recipe
    work, cache = runs / "rehearsal", runs / "cache"
    problem = assemble(recipe, planned.cohort, planned.patients, work=work, cache=cache, progress=progress)
    notices = choosing.checked(problem, (planned.folds, *planned.more), planned.notice)
    rehearsal = rehearsed(problem, planned.folds, again=len(planned.more))
    lines = [account.line() for account in planned.cohort.flow.accounts]
    positives = int(problem.labels.sum())
    lines.append(f"training {len(problem.labels)} patients, {positives} positive, {recipe.outcome}")
    lines += [f"notice   {notice}" for notice in notices]
    lines += [
        f"{cost.name:<12} {cost.patients} patients, input {cost.shape}, {cost.parameters:,} parameters, "
        f"{1000 * cost.seconds_per_step:.0f} ms a step"
        for cost in rehearsal.costs
    ]
    lines.append(
        f"cost     {rehearsal.networks} networks, at most {rehearsal.seconds / 60:.0f} minutes here, "
        f"{rehearsal.peak_gigabytes:.1f} GB"
        + (f", {1 + len(planned.more)} cross-validations with other folds" if planned.more else "")
    )
    for name, prepared in problem.images.items():
        if not problem.modalities[name].pictured:
            continue
        sheet = runs / f"{recipe.name}-{name}.png"
        kind = problem.modalities[name].declaration
        assert isinstance(kind, ImageSpec)
        tiles = [
            Tile(np.asarray(prepared.array[row], np.float32), kind.kind, f"{row + 1}")
            for row in range(min(SHEET_TILES, len(prepared.array)))
        ]
        sheet.write_bytes(contact_sheet(tiles))
        lines.append(f"look at  {sheet}: what the network sees of {name}")
    return lines


def _smaller(recipe: Recipe, patients: Sequence[Patient]) -> tuple[Recipe, list[Patient]]:
    """Keep the smoke run's patients, both classes and every modality among them, and two epochs."""
    labels = [f"{p.targets[recipe.outcome]}{sorted(n for n, s in p.sources.items() if s)}" for p in patients]
    share = max(1, len(patients) // SMOKE_PATIENTS)
    chosen = deal(labels, [patient.subject_id for patient in patients], folds=share, seed=recipe.seed) == 0
    fusion = recipe.fusion
    if isinstance(fusion, LateStack):
        fusion = fusion.model_copy(update={"inner_folds": 2, "smallest_class": 2})
    fitting = recipe.fitting.model_copy(update={"epochs": 2})
    comparison = recipe.comparison.model_copy(update={"resamples": 200})
    small = recipe.model_copy(update={"fitting": fitting, "fusion": fusion, "comparison": comparison})
    return small, [patient for patient, keep in zip(patients, chosen, strict=True) if keep]


def open_run(planned: Plan, runs: Path, resume: Path | None = None) -> Path:
    """Return the folder of a run, new or taken up again; a run is bound to its recipe and cohort.

    Args:
        runs: folder of all runs.
        resume: the folder of a run that was stopped.

    Raises:
        ConfigError: if the run to resume was of another recipe or cohort.
        OutputError: if the folder cannot be written.
    """
    identity = {"recipe": planned.recipe.model_dump(mode="json"), "cohort": planned.cohort.digest}
    if resume is not None:
        file = resume / "run.json"
        try:
            begun = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{resume} is not a run: its run.json cannot be read") from error
        if (resume / "bundle").exists():
            raise ConfigError(f"{resume} is finished, and its bundle stays; start anew without --resume")
        if begun != identity:
            raise ConfigError(f"{resume} was of another recipe or cohort; start anew without --resume")
        return resume
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run = runs / f"{planned.recipe.name}-{stamp}-{secrets.token_hex(2)}"
    try:
        if not runs.exists():
            runs.mkdir(parents=True, mode=0o700)  # images, splits and tracking are this user's alone
        run.mkdir(mode=0o700)
        (run / "run.json").write_text(json.dumps(identity, indent=1))
        planned.splits.save(run / "splits.json")
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write to {str(runs)!r}: {told(error)}; choose another --runs") from error
    return run


def _epochs(progress: Progress | None, planned: Plan) -> Callable[[str, int, Mapping[str, float]], None]:
    """Count epochs over all fits for one progress bar; a fit that stops early jumps to its end."""
    epochs = planned.recipe.fitting.epochs
    declarations = planned.cohort.declarations
    tables = sum(not isinstance(declarations[name], ImageSpec) for name in planned.recipe.modalities)
    total = epochs * fits(planned.recipe, tables, (int(planned.folds.max()) + 1) * (1 + len(planned.more)))
    started: list[str] = []

    def report(name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        if name not in started:
            started.append(name)
        if progress:
            progress("fitting", (len(started) - 1) * epochs + epoch + 1, total)

    return report


def _page(
    planned: Plan, out_of_fold: OutOfFold, choice: choosing.Choice, sha256: str, notices: tuple[str, ...]
) -> TrainingPage:
    """Fill the page about this run; no patient is on it."""
    judgement = choice.judgement
    recipe, subjects = planned.recipe, planned.cohort.flow.subjects
    left = tuple((reason, count) for reason, count in subjects.parts.items() if reason != "kept")
    kept = subjects.parts.get("kept", 0)
    others = kept - len(planned.patients)
    predictors = [
        Predictor(model, *judgement.counts[model], found["auroc"], found["auprc"], found["brier"])
        for model, found in judgement.figures.items()
    ]
    curves = [
        LearningCurve(
            name=name,
            train=tuple(row["loss"] for row in history.epochs),
            tuning=tuple(row["select_loss"] for row in history.epochs if "select_loss" in row),
            best_epoch=history.best_epoch + 1,
        )
        for name, history in out_of_fold.histories.items()
        if "inner" not in name
    ]
    return TrainingPage(
        title=recipe.name,
        question=recipe.question,
        intended_use=recipe.intended_use,
        provenance=Provenance(
            bundle_sha256=sha256,
            medmm_version=version("medmm"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=recipe.name,
            cohort=planned.spec.name,
            cohort_sha256=planned.cohort.digest,
            seeds={"recipe": recipe.seed, "splits": planned.spec.splits.seed},
        ),
        flow=(
            FlowStep("subjects in any source", subjects.total, left),
            FlowStep("in the cohort", kept, (("held out, or without a label", others),) if others else ()),
            FlowStep("trained on", len(planned.patients)),
        ),
        predictors=tuple(sorted(predictors, key=lambda predictor: predictor.name != "fused")),
        decided=decided_table(judgement.figures, judgement.threshold),
        verdict=judgement.verdict,
        chosen=chosen_sections(choice.evidence, choice.decision),
        curves=tuple(curves),
        settings=tuple((key, str(value)) for key, value in recipe.fitting.model_dump().items()),
        warnings=notices,
    )


def _track(run: tracking.Run, planned: Plan, out_of_fold: OutOfFold, judgement: Judgement) -> None:
    """Log what a reader of the run needs; no patient, path or free text."""
    recipe = planned.recipe
    run.params(recipe.model_dump(mode="json", exclude={"question", "intended_use", "cohort"}))
    run.dataset(planned.spec.name, planned.cohort.digest)
    for name, history in out_of_fold.histories.items():
        if "inner" in name:
            continue
        label = name.replace("/", ".")
        run.epochs(
            [(epoch, {f"{label}.{k}": v for k, v in row.items()}) for epoch, row in enumerate(history.epochs)]
        )
    run.final(
        {
            f"{model}.{measure}": (estimate.value, estimate.lower, estimate.upper)
            for model, measures in judgement.figures.items()
            for measure, estimate in measures.items()
            if np.isfinite(estimate.value)
        }
    )
    run.text("recipe.json", recipe.model_dump_json(indent=1, exclude={"cohort"}))
    aurocs = {model: measures["auroc"] for model, measures in judgement.figures.items()}
    run.figure("auroc", plots.intervals(aurocs, title="AUROC out-of-fold", reference=0.5))
    run.figure("calibration", plots.calibration(judgement.overall))
    outer = {name: history.epochs for name, history in out_of_fold.histories.items() if "inner" not in name}
    run.figure("learning", plots.learning(outer))
    balance = plots.gains({name: epochs for name, epochs in outer.items() if name.endswith("/fused")})
    if balance:
        run.figure("modalities", balance)
    if judgement.verdict:
        gains = {f"fused - {name}": gain for name, gain in judgement.verdict.differences.items()}
        run.figure("verdict", plots.intervals(gains, title=judgement.verdict.word, reference=0.0))
        run.text("verdict", judgement.verdict.sentence())


def _track_images(run: tracking.Run, problem: Problem) -> None:
    """Log what became of the series of every image block: counts and ranges, no series and no pseudonym."""
    for name, prepared in problem.images.items():
        found = certificate_summary(prepared.certificates)
        run.epochs([(0, {f"{name}.series.{status}": count for status, count in found["status"].items()})])
        run.text(f"certificates/{name}.json", json.dumps(found, indent=1))


def summary(trained: Trained) -> list[str]:
    """Return what a run found, as lines for a terminal."""
    judgement = trained.judgement
    lines = []
    for model, measures in judgement.figures.items():
        patients, events = judgement.counts[model]
        lines.append(f"{model:<12} AUROC {measures['auroc']}  of {patients} patients, {events} positive")
    fused = judgement.figures["fused"]
    lines.append(
        f"deciding     accuracy {fused['accuracy']}, recall {fused['recall']}, F1 {fused['f1']}"
        f" at a risk of {judgement.threshold or 0.5:.2g}, out-of-fold"
    )
    lines += [f"with {group.category}: {_described(group)}" for group in judgement.patterns]
    lines.append(
        judgement.verdict.sentence() if judgement.verdict else "no image to judge, or nothing beside it"
    )
    lines += choosing.said(trained.decision, trained.notice)
    lines.append(f"report   {trained.run / 'training.html'}")
    lines += [f"bundle   {trained.bundle}", f"sha256   {trained.sha256}"]
    return lines


def _described(group: Subgroup) -> str:
    if group.patients is None:
        return "fewer than 11 patients"
    return f"{group.patients} patients, AUROC {group.auroc}" if group.auroc else f"{group.patients} patients"
