"""What a training run says: its page, what is tracked of it, and its lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medmm import choosing, tracking
from medmm.arrays import Ints
from medmm.calibration import flat_told
from medmm.cohort.link import Cohort
from medmm.cohort.spec import CohortSpec
from medmm.cohort.split import Splits
from medmm.dicom import certificate_summary
from medmm.evaluation.comparison import Verdict
from medmm.evaluation.kinds import IN_WORDS, RANKING
from medmm.evaluation.subgroups import Subgroup
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import OutOfFold
from medmm.fitting.judgement import Judgement
from medmm.fitting.promotion import Decision
from medmm.fitting.routing import Routing
from medmm.outcome import Task
from medmm.recipe import Recipe
from medmm.report import plots
from medmm.report.choosing import choosing as chosen_sections
from medmm.report.facts import FlowStep, Predictor, Provenance, Table
from medmm.report.outcomes import confusion_table, figure_tables, taken_for
from medmm.report.training import LearningCurve, TrainingPage, decided_table
from medmm.sample import Patient

SAID = {
    "multiclass": ("accuracy", "balanced_accuracy", "macro_f1", "auroc"),
    "ordinal": ("accuracy", "balanced_accuracy", "mean_level_error", "auroc"),
    "regression": ("mae", "r2", "bias"),
    "survival": ("c_index", "ibs"),
    "cox": ("c_index", "ibs"),
}
"""Measures that a terminal is told, by kind; the page has all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with the cohort that it names, linked.

    Attributes:
        folder: of the cohort.
        patients: those who are trained on.
        folds: ``[patient]``.
        more: the folds of further repeats of the cross-validation.
        notice: what must be known about few events; empty where they are not few.
        inner: per cross-validation, the cohort's inner folds ``[patient, outer fold]``.
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
    inner: Mapping[str, Ints] = field(default_factory=dict)


FOUND = {
    "leak": "a leak, or what looks like one, among the inputs",
    "shortcut": "how a patient was examined tells the outcome",
    "look": "something that a person should look at",
}
"""The grades of the red team's findings, in words."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run left behind; ``lines`` say it in words.

    Attributes:
        worst: grade of the red team's findings, "nothing", or None where it did not look.
        notices: what must be known beside the figures: few events, series that were refused, what is odd.
    """

    run: Path
    bundle: Path
    sha256: str
    judgements: Mapping[str, Judgement]
    decision: Decision | None = None
    routing: Routing | None = None
    worst: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def judgement(self) -> Judgement:
        """The first, or only, outcome's."""
        return next(iter(self.judgements.values()))


def training_page(
    planned: Plan, out_of_fold: OutOfFold, choice: choosing.Choice, sha256: str, notices: tuple[str, ...]
) -> TrainingPage:
    """Fill the page about this run; no patient is on it."""
    judgements, recipe = choice.judgements, planned.recipe
    only = _only_binary(judgements)
    predictors = [
        Predictor(model, *one.counts[model], found["auroc"], found["auprc"], found["brier"])
        for one in ([only] if only else [])
        for model, found in one.figures.items()
    ]
    return TrainingPage(
        title=recipe.name,
        question=recipe.question,
        intended_use=recipe.intended_use,
        provenance=_provenance(planned, sha256),
        flow=_flow(planned),
        predictors=tuple(sorted(predictors, key=lambda predictor: predictor.name != "fused")),
        shipped=choice.routing.sentence() if choice.routing else "",
        decided=decided_table(only.figures, only.threshold) if only else None,
        verdict=only.verdict if only else None,
        outcomes=() if only else _outcome_tables(judgements),
        verdicts=_verdicts(judgements, only),
        chosen=chosen_sections(choice.evidence, choice.decision) if choice.evidence else None,
        curves=_curves(out_of_fold),
        settings=tuple((key, str(value)) for key, value in recipe.fitting.model_dump().items()),
        warnings=(*notices, *_flat(judgements)),
    )


def _verdicts(judgements: Mapping[str, Judgement], only: Judgement | None) -> tuple[tuple[str, Verdict], ...]:
    """Return the verdicts besides the one that has a place of its own: about what ships, or per outcome."""
    if only is not None:
        return (("what ships", only.shipped),) if only.shipped else ()
    return tuple((each.task.named, each.verdict) for each in judgements.values() if each.verdict)


def _provenance(planned: Plan, sha256: str) -> Provenance:
    return Provenance(
        bundle_sha256=sha256,
        medmm_version=version("medmm"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=planned.recipe.name,
        cohort=planned.spec.name,
        cohort_sha256=planned.cohort.digest,
        seeds={"recipe": planned.recipe.seed, "splits": planned.spec.splits.seed},
    )


def _flow(planned: Plan) -> tuple[FlowStep, ...]:
    """Return from everybody to those who are trained on."""
    subjects = planned.cohort.flow.subjects
    left = tuple((reason, count) for reason, count in subjects.parts.items() if reason != "kept")
    kept = subjects.parts.get("kept", 0)
    others = kept - len(planned.patients)
    return (
        FlowStep("subjects in any source", subjects.total, left),
        FlowStep("in the cohort", kept, (("held out, or without a label", others),) if others else ()),
        FlowStep("trained on", len(planned.patients)),
    )


def _curves(out_of_fold: OutOfFold) -> tuple[LearningCurve, ...]:
    return tuple(
        LearningCurve(
            name=name,
            train=tuple(row["loss"] for row in history.epochs),
            tuning=tuple(row["select_loss"] for row in history.epochs if "select_loss" in row),
            best_epoch=history.best_epoch + 1,
        )
        for name, history in out_of_fold.histories.items()
        if "inner" not in name
    )


def _only_binary(judgements: Mapping[str, Judgement]) -> Judgement | None:
    """Return the judgement of a run with one binary outcome; None of any other run."""
    first = next(iter(judgements.values()))
    return first if len(judgements) == 1 and first.task.kind == "binary" else None


def _outcome_tables(judgements: Mapping[str, Judgement]) -> tuple[tuple[str, Table], ...]:
    found: list[tuple[str, Table]] = []
    for one in judgements.values():
        counts = {model: patients for model, (patients, _) in one.counts.items()}
        found += figure_tables(one.task.named, one.figures, counts, IN_WORDS)
        if one.confusion is not None:
            found.append(confusion_table(one.task.named, one.task.classes, one.confusion.tolist()))
        if one.threshold is not None:
            found.append((f"{one.task.named}: deciding", decided_table(one.figures, one.threshold)))
    return tuple(found)


def track(
    run: tracking.Run, planned: Plan, out_of_fold: OutOfFold, judgements: Mapping[str, Judgement]
) -> None:
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
    several = len(judgements) > 1
    run.final(
        {
            tracked_name(f"{outcome}.{model}.{measure}" if several else f"{model}.{measure}"): (
                estimate.value,
                estimate.lower,
                estimate.upper,
            )
            for outcome, judgement in judgements.items()
            for model, measures in judgement.figures.items()
            for measure, estimate in measures.items()
            if np.isfinite(estimate.value)
        }
    )
    run.text("recipe.json", recipe.model_dump_json(indent=1, exclude={"cohort"}))
    for outcome, judgement in judgements.items():
        _track_outcome(run, judgement, f"{outcome}." if several else "")
    outer = {name: history.epochs for name, history in out_of_fold.histories.items() if "inner" not in name}
    run.figure("learning", plots.learning(outer))
    balance = plots.gains({name: epochs for name, epochs in outer.items() if name.endswith("/fused")})
    if balance:
        run.figure("modalities", balance)


def _track_outcome(run: tracking.Run, judgement: Judgement, prefix: str) -> None:
    """Log the figures of one outcome."""
    measure = RANKING[judgement.task.kind]
    ranked = {model: measures[measure] for model, measures in judgement.figures.items()}
    chance = 0.0 if measure == "r2" else 0.5
    run.figure(
        f"{prefix}{measure}",
        plots.intervals(ranked, title=f"{IN_WORDS[measure]} out-of-fold", reference=chance),
    )
    if judgement.overall is not None:
        run.figure(f"{prefix}calibration", plots.calibration(judgement.overall))
    if judgement.shipped:
        run.text(f"{prefix}verdict_of_shipped", judgement.shipped.sentence())
    if judgement.verdict:
        gains = {f"fused - {name}": gain for name, gain in judgement.verdict.differences.items()}
        run.figure(f"{prefix}verdict", plots.intervals(gains, title=judgement.verdict.word, reference=0.0))
        run.text(f"{prefix}verdict", judgement.verdict.sentence())


def tracked_name(name: str) -> str:
    """Return a metric's name as the tracking store takes it: classes may have any character."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def track_images(run: tracking.Run, problem: Problem) -> None:
    """Log what became of the series of every image block: counts and ranges, no series and no pseudonym."""
    for name, prepared in problem.images.items():
        found = certificate_summary(prepared.certificates)
        run.epochs([(0, {f"{name}.series.{status}": count for status, count in found["status"].items()})])
        run.text(f"certificates/{name}.json", json.dumps(found, indent=1))


def summary(trained: Trained) -> list[str]:
    """Return what a run found, as lines for a terminal."""
    lines: list[str] = []
    for outcome, judgement in trained.judgements.items():
        several = len(trained.judgements) > 1
        lines += [f"outcome  {outcome}"] if several or judgement.task.kind != "binary" else []
        lines += _binary_lines(judgement) if judgement.task.kind == "binary" else _kind_lines(judgement)
        lines += [
            f"with {group.category}: {_described(group, judgement.task)}" for group in judgement.patterns
        ]
        lines.append(
            judgement.verdict.sentence() if judgement.verdict else "no image to judge, or nothing beside it"
        )
        lines += [judgement.shipped.sentence()] if judgement.shipped else []
    lines += [f"notice   {notice}" for notice in (*_flat(trained.judgements), *trained.notices)]
    lines += choosing.said(trained.decision, trained.routing)
    if trained.worst in FOUND:
        pages = trained.run / "red-team*.html"
        lines.append(f"red team {FOUND[trained.worst]}; read {pages} before you believe a figure above")
    lines.append(f"report   {trained.run / 'training.html'}")
    lines += [f"bundle   {trained.bundle}", f"sha256   {trained.sha256}"]
    return lines


def _flat(judgements: Mapping[str, Judgement]) -> list[str]:
    return flat_told({name: judgement.calibration for name, judgement in judgements.items()})


def _kind_lines(judgement: Judgement) -> list[str]:
    task, shown = judgement.task, SAID[judgement.task.kind]
    lines = []
    for model, measures in judgement.figures.items():
        told = ", ".join(f"{IN_WORDS[name]} {measures[name]}" for name in shown)
        lines.append(f"{model:<12} {told}  of {judgement.counts[model][0]} patients")
    if judgement.confusion is not None:
        lines += taken_for(task.classes, judgement.confusion.tolist())
    return lines


def _binary_lines(judgement: Judgement) -> list[str]:
    lines = []
    for model, measures in judgement.figures.items():
        patients, events = judgement.counts[model]
        lines.append(f"{model:<12} AUROC {measures['auroc']}  of {patients} patients, {events} positive")
    own = judgement.figures[judgement.model]
    lines.append(
        f"deciding     accuracy {own['accuracy']}, recall {own['recall']}, F1 {own['f1']}"
        f" at a risk of {judgement.threshold or 0.5:.2g}, out-of-fold"
    )
    return lines


def _described(group: Subgroup, task: Task) -> str:
    if group.patients is None:
        return "fewer than 11 patients"
    word = IN_WORDS[RANKING[task.kind]]
    return f"{group.patients} patients, {word} {group.auroc}" if group.auroc else f"{group.patients} patients"
