"""A cohort's page, filled: how good the model is on these patients, for whom, and what it goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medmm.arrays import Float64, Ints
from medmm.calibration import sigmoid
from medmm.cohort.link import Cohort
from medmm.errors import DataError
from medmm.evaluation.calibrate import agreement, cross_fitted
from medmm.evaluation.comparison import FUSED, Verdict
from medmm.evaluation.decisions import Operating, net_benefit, threshold_table
from medmm.evaluation.discrimination import performance
from medmm.evaluation.resampling import Estimate
from medmm.evaluation.subgroups import SMALL_CELL, Subgroup, availability
from medmm.explain.courses import newest_number
from medmm.explain.explainer import Explained, Explainer, OutOfFoldRecord
from medmm.explain.kinds import kinds_page
from medmm.explain.patient import estimate, provenance
from medmm.explain.predicted import only_binary
from medmm.explain.waterfalls import label_of
from medmm.fitting.judgement import groups
from medmm.fitting.routing import ROUTED
from medmm.held_out import open_held_out
from medmm.report.cohort import (
    CohortPage,
    Histogram,
    Missingness,
    NetBenefit,
    Share,
    SwarmField,
)
from medmm.report.facts import FlowStep, Predictor, Table
from medmm.sample import Absence, Patient, TimedSeries
from medmm.scorer import Observed

Progress = Callable[[str, int, int], None]

SWARM_PATIENTS = 200
"""Patients whose fields are explained for a beeswarm; more dots say no more."""

GRID = tuple(float(x) for x in np.linspace(0.05, 0.95, 19))
"""Risks at which net benefit is drawn."""

TABLE = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Risks of the threshold table, besides the recipe's own."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The patients of a page and how they were scored.

    Attributes:
        raw: ``[patient]``, logits that rank; of the folds' own models, or of the bundle. Uncalibrated, but
            of several networks calibrated, which gives them one scale.
        logits: ``[patient]``, calibrated.
        folds: ``[patient]``; all 0 when the bundle scored them.
        rivals: per other model, uncalibrated logits ``[patient]``, NaN where it cannot score.
        model: whose logits these are: "fused", or "routed" where submodels score some of the patients.
    """

    patients: Sequence[Patient]
    observed: Sequence[Observed]
    labels: Float64
    raw: Float64
    logits: Float64
    folds: Ints
    rivals: Mapping[str, Float64]
    model: str


def cohort_page(
    explainer: Explainer, cohort: Cohort, *, held_out: bool, progress: Progress | None = None
) -> CohortPage:
    """Judge and explain the held-out patients, or the training patients out-of-fold.

    Raises:
        DataError: if nobody is held out, somebody held out was trained on, or the out-of-fold scores are
            not at this site.
    """
    if not only_binary(explainer):
        return kinds_page(explainer, cohort, held_out=held_out, progress=progress)
    judged = _held_out(explainer, cohort, progress) if held_out else _out_of_fold(explainer, cohort, progress)
    explained = _explained(explainer, judged, progress)
    description, labels, risks = explainer.description, judged.labels, np.asarray(sigmoid(judged.logits))
    return CohortPage(
        title=description.name,
        question=description.question,
        intended_use=description.intended_use,
        source=_source(judged, held_out=held_out),
        patients=len(labels),
        events=int(labels.sum()),
        provenance=provenance(explainer),
        flow=_flow(cohort, judged, held_out=held_out),
        missingness=_missingness(explainer, judged),
        predictors=_predictors(judged),
        verdict=None if held_out else _verdict(explainer),
        verdicts=() if held_out else _verdict_of_shipped(explainer),
        scored_by=_scored_by(explainer, judged),
        thresholds=_thresholds(explainer, labels, risks),
        chosen_threshold=description.threshold,
        histogram=_histogram(labels, risks),
        calibration=agreement(labels, judged.logits),
        net_benefit=_net_benefit(judged, risks),
        subgroups=_subgroups(cohort, judged),
        patterns=_patterns(explainer, judged),
        swarm=_swarm(explainer, explained),
        shares=_shares(explainer, explained),
        refused=tuple(sorted(_absences(judged).items())),
    )


def _source(judged: Judged, *, held_out: bool) -> str:
    """Return whose scores these are, in words."""
    if held_out:
        return "held-out patients"
    found = "out-of-fold scores of the training patients"
    if judged.model == FUSED:
        return found
    return f"{found}, routed: each by the network, and the calibration, that were chosen without the fold"


def _held_out(explainer: Explainer, cohort: Cohort, progress: Progress | None) -> Judged:
    outcome = explainer.description.outcome
    patients, _ = open_held_out(explainer.bundle, cohort)
    observed, logits = _observed(explainer, patients, progress)
    scored = [index for index, logit in enumerate(logits) if np.isfinite(logit)]
    scorer, seen = explainer.scorer, [observed[index] for index in scored]
    calibrated = scorer.calibrated(explainer.bundle.tasks[0], logits[scored], [*map(scorer.route, seen)])
    return Judged(
        patients=[patients[index] for index in scored],
        observed=seen,
        labels=np.array([patients[index].targets[outcome] for index in scored]),
        raw=calibrated if scorer.routes else logits[scored],
        logits=calibrated,
        folds=np.zeros(len(scored), dtype=np.int64),
        rivals={},
        model=ROUTED if scorer.routes else FUSED,
    )


def _out_of_fold(explainer: Explainer, cohort: Cohort, progress: Progress | None) -> Judged:
    training: OutOfFoldRecord | None = explainer.training
    if training is None:
        raise DataError("out-of-fold scores stay where the model was trained; they are not in the bundle")
    outcome = explainer.description.outcome
    known = {patient.pseudonym: patient for patient in cohort.patients if outcome in patient.targets}
    usable = np.isfinite(training.calibrated) & np.isin(training.pseudonyms, list(known))
    if not usable.any():
        raise DataError(
            f"none of the {len(training.pseudonyms)} training patients is in cohort {cohort.spec.name} under "
            "this site's key; explain where the bundle was trained"
        )
    rows = np.flatnonzero(usable)
    patients = [known[training.pseudonyms[index]] for index in rows]
    labels = np.array([patient.targets[outcome] for patient in patients])
    observed, _ = _observed(explainer, patients, progress)
    logits = {model: values[rows] for model, values in training.logits.items()}
    own = logits.pop(training.model)
    calibrated, folds = training.calibrated[rows], training.folds[rows]
    return Judged(patients, observed, labels, own, calibrated, folds, logits, training.model)


def _calibrated(logits: Float64, labels: Float64, folds: Ints) -> Float64:
    calibrated = np.full(len(logits), np.nan)
    known = np.isfinite(logits)
    calibrated[known] = cross_fitted(logits[known], labels[known], folds[known])
    return calibrated


def _observed(
    explainer: Explainer, patients: Sequence[Patient], progress: Progress | None
) -> tuple[list[Observed], Float64]:
    observed, logits = [], []
    for done, patient in enumerate(patients):
        found = explainer.scorer.observe(patient)
        refused = explainer.scorer.refusal(found)
        logits.append(np.nan if refused else explainer.scorer.logit(explainer.scorer.encode(found)))
        observed.append(found)
        if progress:
            progress("scoring", done + 1, len(patients))
    return observed, np.array(logits)


def _explained(
    explainer: Explainer, judged: Judged, progress: Progress | None
) -> list[tuple[Observed, Explained]]:
    """Explain up to 200 patients against the centroids, drawn by the recipe's seed."""
    count = min(SWARM_PATIENTS, len(judged.observed))
    order = np.random.default_rng(explainer.description.seed).permutation(len(judged.observed))[:count]
    explained = []
    for done, index in enumerate(np.sort(order)):
        found = judged.observed[index]
        centroids = explainer.centroids_of(explainer.scorer.route(found))
        explained.append((found, explainer.explain(found, centroids)))
        if progress:
            progress("explaining", done + 1, count)
    return explained


def _flow(cohort: Cohort, judged: Judged, *, held_out: bool) -> tuple[FlowStep, ...]:
    subjects = cohort.flow.subjects
    left = tuple((reason, count) for reason, count in subjects.parts.items() if reason != "kept")
    kept = subjects.parts.get("kept", 0)
    label = "held out and scored" if held_out else "trained on and scored out-of-fold"
    others = kept - len(judged.patients)
    return (
        FlowStep("subjects in any source", subjects.total, left),
        FlowStep(
            "in the cohort", kept, (("in another split, or without label or data", others),) if others else ()
        ),
        FlowStep(label, len(judged.patients)),
    )


def _missingness(explainer: Explainer, judged: Judged) -> tuple[Missingness, ...]:
    found = []
    for name, modality in explainer.bundle.modalities.items():
        rows = [patient.sources.get(name, Absence("not_in_cohort")) for patient in judged.patients]
        tables = [row for row in rows if isinstance(row, Mapping)]
        if tables:
            for key in tables[0]:
                missing = sum(row[key].value is None for row in tables) + len(rows) - len(tables)
                found.append(Missingness(label_of(modality.declaration, key), missing, len(rows), name))
        else:
            absent = sum(name in seen.absent for seen in judged.observed)
            found.append(Missingness(name, absent, len(rows), name))
    return tuple(found)


def _predictors(judged: Judged) -> tuple[Predictor, ...]:
    made = []
    for name, raw in {judged.model: judged.raw, **judged.rivals}.items():
        rows = np.isfinite(raw)
        labels, folds = judged.labels[rows], judged.folds[rows]
        risks = judged.logits if name == judged.model else _calibrated(raw, judged.labels, judged.folds)
        ranking, weighed = (performance(labels, values[rows], folds) for values in (raw, risks))
        figures = (ranking["auroc"], ranking["auprc"], weighed["brier"])
        made.append(Predictor(name, len(labels), int(labels.sum()), *figures))
    return tuple(made)


def _verdict(explainer: Explainer) -> Verdict | None:
    """Return the verdict of the training run, from the bundle's metrics."""
    found = explainer.bundle.metrics["verdict"]
    if not found:
        return None
    return Verdict(
        word=found["word"],
        patients=found["patients"],
        events=found["events"],
        aurocs=_estimates(found["aurocs"]),
        differences=_estimates(found["differences"]),
        margin=found["margin"],
    )


def _verdict_of_shipped(explainer: Explainer) -> tuple[tuple[str, str], ...]:
    """Return what the training run said of the networks that ship, where that is not the fused one alone."""
    found = explainer.bundle.metrics["verdict_of_shipped"]
    return (("What ships", found["sentence"]),) if found else ()


def _scored_by(explainer: Explainer, judged: Judged) -> Table | None:
    """Return which network of the bundle scores, and explains, how many; None where there is one."""
    if not explainer.scorer.routes:
        return None
    routes = [explainer.scorer.route(seen) for seen in judged.observed]
    counted = Counter((route.submodel.model if route.submodel else FUSED, route.name) for route in routes)
    uses = {route.name: ", ".join(route.uses) for route in routes}
    rows = tuple(
        (
            " + ".join(name.split("+")) if name else "any other modalities",
            model,
            uses[name],
            f"{count}" if count >= SMALL_CELL else f"fewer than {SMALL_CELL}",
        )
        for (model, name), count in counted.most_common()
    )
    return Table(
        ("patients with", "scored and explained by", "which looks at", "patients"),
        rows,
        "The bundle's own networks. Out-of-fold figures are of the folds' choices, made without the fold.",
    )


def _estimates(triples: Mapping[str, list[float | None]]) -> dict[str, Estimate]:
    return {name: found for name, triple in triples.items() if (found := estimate(triple))}


def _thresholds(explainer: Explainer, labels: Float64, risks: Float64) -> tuple[Operating, ...]:
    chosen = explainer.description.threshold
    return threshold_table(labels, risks, sorted({*TABLE, *([chosen] if chosen and chosen < 1 else [])}))


def _histogram(labels: Float64, risks: Float64) -> Histogram:
    edges = np.linspace(0, 1, 21)
    without, having = (np.histogram(risks[labels == label], edges)[0].tolist() for label in (0, 1))
    return Histogram(tuple(edges.tolist()), tuple(without), tuple(having))


def _net_benefit(judged: Judged, risks: Float64) -> NetBenefit:
    asked = {judged.model: risks}
    for name in (FUSED, "tables", "trees"):
        if name in judged.rivals and np.isfinite(judged.rivals[name]).all():
            asked[name] = np.asarray(sigmoid(_calibrated(judged.rivals[name], judged.labels, judged.folds)))
    curves = net_benefit(judged.labels, asked, GRID)
    return NetBenefit(GRID, {name: tuple(curve.tolist()) for name, curve in curves.items()})


def _subgroups(cohort: Cohort, judged: Judged) -> dict[str, tuple[Subgroup, ...]]:
    return {
        family: _groups(judged, [p.subgroups.get(family, "not recorded") for p in judged.patients])
        for family in cohort.spec.subgroups
    }


def _patterns(explainer: Explainer, judged: Judged) -> tuple[Subgroup, ...]:
    names = explainer.description.modalities
    present = np.array([[name in seen.inputs for name in names] for seen in judged.observed])
    return _groups(judged, availability(present, names))


def _groups(judged: Judged, names: Sequence[str]) -> tuple[Subgroup, ...]:
    return groups(judged.labels, (judged.raw, judged.logits), names, judged.folds)


def _swarm(explainer: Explainer, explained: Sequence[tuple[Observed, Explained]]) -> tuple[SwarmField, ...]:
    """Return every table field, most important first, with its value as a rank among these patients."""
    fields = []
    for name, modality in explainer.bundle.modalities.items():
        shown = [(seen, parts.fields[name]) for seen, parts in explained if name in parts.fields]
        for player in modality.players():
            values = [part.values[part.names.index(player.name)] for _, part in shown]
            numbers = [_number(seen, name, player.name) for seen, _ in shown]
            fields.append(
                SwarmField(label_of(modality.declaration, player.name), tuple(values), _ranks(numbers))
            )
    return tuple(sorted(fields, key=lambda field: -float(np.abs(field.attributions or (0.0,)).mean())))


def _number(seen: Observed, name: str, field: str) -> float:
    """Return the field's value as a number, NaN where it is missing or has no order."""
    row = seen.patient.sources[name]
    if isinstance(row, TimedSeries):
        return newest_number(row, field)
    assert isinstance(row, Mapping)
    values = [value.value for key, value in row.items() if key.split(":", 1)[0] == field]
    return float(values[0]) if isinstance(values[0], float | int) else float("nan")


def _ranks(numbers: Sequence[float]) -> tuple[float | None, ...]:
    values = np.asarray(numbers, dtype=np.float64)
    known = np.sort(values[np.isfinite(values)])
    if not len(known):
        return (None,) * len(values)
    places = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / (
        2 * len(known)
    )
    return tuple(
        float(place) if np.isfinite(value) else None for place, value in zip(places, values, strict=True)
    )


def _shares(explainer: Explainer, explained: Sequence[tuple[Observed, Explained]]) -> tuple[Share, ...]:
    values = np.abs([parts.modalities.values for _, parts in explained])
    return tuple(
        Share(name, float(values[:, column].mean()), len(values))
        for column, name in enumerate(explainer.description.modalities)
    )


def _absences(judged: Judged) -> Counter[str]:
    return Counter(
        f"{name}: {reason.replace('_', ' ')}"
        for seen in judged.observed
        for name, reason in seen.absent.items()
    )
