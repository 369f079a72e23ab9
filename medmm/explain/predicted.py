"""One patient's outcomes of any kind, filled for the page: what is expected, by class or by day, and why."""

from __future__ import annotations

from medmm.calibration import Calibration, Platt, Shifted
from medmm.evaluation.kinds import IN_WORDS, RANKING
from medmm.explain.explainer import Explainer
from medmm.explain.images import image_evidence
from medmm.explain.waterfalls import field_waterfalls, modality_waterfall
from medmm.outcome import CLASSES, TIMES, Component, Task
from medmm.report.facts import Table
from medmm.report.outcomes import Explanation, Predicted
from medmm.report.wording import number, of_100, unit_text
from medmm.sample import Outcome
from medmm.scorer import Observed


def only_binary(explainer: Explainer) -> bool:
    """Tell whether a bundle predicts one binary outcome and nothing else: then its own page is drawn."""
    tasks = explainer.bundle.tasks
    return len(tasks) == 1 and tasks[0].kind == "binary"


def predicted(explainer: Explainer, observed: Observed) -> tuple[Predicted, ...]:
    """Return every outcome of one patient, explained.

    Raises:
        ExplanationError: if an attribution misses its component of the scored logits by more than 1e-5.
    """
    outcomes = explainer.scorer.outcomes(explainer.scorer.logits(explainer.scorer.encode(observed)))
    found = []
    for task in explainer.bundle.tasks:
        outcome = outcomes[task.name]
        parts = [part for part in explainer.scorer.components if part.task.name == task.name]
        parts.sort(key=lambda part: part.task.components[part.index] != outcome.decision)
        found.append(
            Predicted(
                title=task.named,
                headline=_headline(task, outcome),
                table=_table(task, outcome, explainer.description.rates.get(task.name, {})),
                notes=_notes(explainer, task, outcome),
                explanations=tuple(_explanation(explainer, observed, part) for part in parts),
                images=tuple(
                    image_evidence(explainer, observed, name, parts[0])
                    for name, modality in explainer.bundle.modalities.items()
                    if modality.pictured and name in observed.inputs
                ),
            )
        )
    return tuple(found)


def _headline(task: Task, outcome: Outcome) -> str:
    if task.kind == "regression":
        return f"{task.named}: {number(outcome.value or 0.0)} {unit_text(task.unit)}".strip() + " expected."
    expected = f"{of_100(outcome.probability or 0.0)} such patients would be expected"
    if task.kind in TIMES:
        return f"{expected} to have had {task.named} by day {task.ends[-1]:g}."
    if task.kind == "binary":
        return f"{expected} to have {task.named}."
    return f"Most likely {outcome.decision}: {expected} to be there."


def _table(task: Task, outcome: Outcome, rates: dict[str, float]) -> Table | None:
    if task.kind in TIMES:
        rows = tuple((day, of_100(risk)) for day, risk in outcome.probabilities.items())
        return Table(("by day", "with the event"), rows)
    if task.kind not in CLASSES or task.kind == "binary":
        return None
    rows3 = tuple((name, of_100(share), of_100(rates[name])) for name, share in outcome.probabilities.items())
    return Table(("class", "such patients", "cohort trained on"), rows3, "The probabilities add up to 1.")


def _notes(explainer: Explainer, task: Task, outcome: Outcome) -> tuple[str, ...]:
    told = explainer.bundle.metrics["outcomes"][task.name]
    fused, measure = told["out_of_fold"]["fused"], RANKING[task.kind]
    value, low, high = fused[measure]
    notes = []
    if value is not None and low is not None:
        notes.append(
            f"How good the model is: {IN_WORDS[measure]} {value:.2f} ({low:.2f} to {high:.2f})"
            f" out-of-fold, on {fused['patients']} patients."
        )
    if task.kind == "regression":
        notes.append(f"Out-of-fold it missed by {fused['mae'][0]:.2f} {unit_text(task.unit)} on average.")
    threshold = explainer.description.threshold_of(task.name)
    if threshold is not None:
        side = "above" if outcome.decision == "positive" else "below"
        notes.append(f"Threshold of this pipeline: {of_100(threshold)}; this patient is {side} it.")
    return tuple(notes)


def _explanation(explainer: Explainer, observed: Observed, part: Component) -> Explanation:
    explained = explainer.explain(observed, component=part)
    task = part.task
    slope, intercept = _affine(explainer.bundle.calibrations[task.name], part)
    own = task.components[part.index]
    name = own if task.kind == "multiclass" else task.named
    return Explanation(
        name=name,
        modalities=modality_waterfall(explainer, explained, observed),
        fields=field_waterfalls(explainer, explained, observed),
        slope=slope,
        intercept=intercept,
        risk=task.kind == "binary",
        axis={
            "multiclass": f"log-odds of {own} against the mean of all classes",
            "ordinal": "log-odds of more than the lowest level",
            "regression": unit_text(task.unit) or task.named,
            "survival": "mean log-odds of the hazard",
            "cox": "log of the relative hazard",
        }.get(task.kind, ""),
    )


def _affine(calibration: Calibration, part: Component) -> tuple[float, float]:
    """Return slope and intercept of one component's calibration."""
    if isinstance(calibration, Platt):
        return calibration.slope, calibration.intercept
    assert isinstance(calibration, Shifted)
    task, offsets = part.task, calibration.offsets
    if task.kind == "multiclass":
        return calibration.slope, offsets[part.index] - sum(offsets) / len(offsets)
    if task.kind == "survival":
        return calibration.slope, sum(offsets) / len(offsets)
    return calibration.slope, 0.0 if task.kind == "cox" else offsets[0]
