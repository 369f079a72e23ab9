"""One patient's page, filled: every value it prints is computed or looked up here, and drawn elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

from medmm.calibration import Platt
from medmm.columns import FieldSpec, ImageSpec, ResultSpec, Status, Value
from medmm.dicom import Bag
from medmm.evaluation.resampling import Estimate
from medmm.explain.bags import used_bag, with_attention
from medmm.explain.courses import notes_used, results_missing, results_used
from medmm.explain.explainer import Explained, Explainer
from medmm.explain.images import image_evidence
from medmm.explain.predicted import only_binary, predicted
from medmm.explain.waterfalls import field_waterfalls, label_of, modality_waterfall, shown, spec_of
from medmm.modality import Modality
from medmm.report.facts import Provenance
from medmm.report.images import ImageEvidence
from medmm.report.patient import (
    Calibration,
    HowGood,
    InputBlock,
    PatientPage,
    ReferenceFacts,
    Risk,
    Training,
    UsedField,
    UsedSeries,
)
from medmm.sample import Absence, NotesSource, Patient, SeriesSource, TimedSeries
from medmm.scorer import Observed, Route

LEFT_OUT = {
    Status.UNDATED: "undated, and the cohort does not vouch for it",
    Status.OUTSIDE_WINDOW: "older than its look-back window",
    Status.IMPLAUSIBLE: "outside the plausible range",
    Status.UNPARSABLE: "could not be read as a number",
}
"""Why a value that exists was not used, as a reader is told."""

ABSENT = {
    "no_series": "no series for this patient",
    "later": "acquired after the prediction time",
    "undated": "undated, and the cohort does not vouch for it",
    "not_eligible": "no series that the cohort's rule accepts",
    "no_known_value": "no value recorded",
    "no_results": "no result that was known in time",
    "no_notes": "no note that was known in time",
    "not_in_cohort": "not part of this cohort",
}


def patient_page(explainer: Explainer, patient: Patient) -> PatientPage:
    """Observe, score and explain one patient, and say it all in plain values.

    Raises:
        ExplanationError: if an attribution misses the scored logit by more than 1e-5.
    """
    description = explainer.description
    observed = explainer.scorer.observe(patient)
    reason = explainer.scorer.refusal(observed)
    blocks = tuple(
        with_attention(_block(name, modality, observed), explainer, observed)
        for name, modality in explainer.bundle.modalities.items()
    )
    page = partial(
        PatientPage,
        pseudonym=patient.pseudonym,
        intended_use=description.intended_use,
        provenance=provenance(explainer),
        inputs=blocks,
    )
    if reason:
        return page(question=description.outcome_label, status="refused", reason=reason)
    if not only_binary(explainer):
        return page(
            question=description.question,
            status="scored",
            warnings=observed.warnings,
            reference=_reference_facts(explainer, explainer.scorer.fused),
            outcomes=predicted(explainer, observed),
            training=_training(explainer, patient),
        )
    explained = explainer.explain(observed)
    return page(
        question=description.outcome_label,
        status="scored",
        risk=_risk(explainer, explained, patient),
        warnings=observed.warnings + _routed(explained.route),
        modalities=modality_waterfall(explainer, explained, observed),
        fields=field_waterfalls(explainer, explained, observed),
        images=_images(explainer, observed),
        how_good=how_good(explainer, observed),
        reference=_reference_facts(explainer, explained.route),
    )


def _routed(route: Route) -> tuple[str, ...]:
    """Say that a submodel scored the patient, where one did."""
    if route.submodel is None:
        return ()
    own, pattern = route.submodel, " + ".join(route.submodel.pattern)
    return (
        f"scored by `{own.model}`, which was better than the fused network, out-of-fold, on the patients with"
        f" exactly these modalities ({pattern}); it looks at {', '.join(own.uses)}",
    )


def _reference_facts(explainer: Explainer, route: Route) -> ReferenceFacts:
    reference = explainer.reference_of(route)
    return ReferenceFacts(
        kind=reference.kind,
        size=len(reference.weights),
        of=explainer.description.trained_on,
        sampling_error=explainer.base_error_of(route),
        sha256=reference.digest,
    )


def _training(explainer: Explainer, patient: Patient) -> Training:
    told: dict[bool | None, Training] = {True: "in_training", False: "not_in_training", None: "unknown"}
    return told[explainer.scorer.trained(patient)]


def provenance(explainer: Explainer) -> Provenance:
    """Return where a page comes from."""
    description = explainer.description
    return Provenance(
        bundle_sha256=explainer.bundle.sha256,
        medmm_version=version("medmm"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=description.name,
        cohort=description.cohort,
        cohort_sha256=description.cohort_digest,
        seeds={"recipe": description.seed},
    )


def how_good(explainer: Explainer, observed: Observed) -> HowGood | None:
    """Return the out-of-fold figures of patients with the same modalities, or None where there are none."""
    name = " + ".join(n for n in explainer.description.modalities if n in observed.inputs)
    for group in explainer.bundle.metrics["patterns"]:
        if group["name"] != name or group["auroc"] is None or group["calibration"] is None:
            continue
        found = group["calibration"]
        return HowGood(
            pattern=name,
            source="out-of-fold",
            patients=group["patients"],
            events=group["events"],
            auroc=estimate(group["auroc"]),
            slope=estimate(found["slope"]),
            expected=found["expected"],
            observed=found["observed"],
        )
    return None


def estimate(triple: list[float | None]) -> Estimate | None:
    """Return an estimate from the JSON triple of a bundle's metrics; None where it is undefined."""
    if any(part is None for part in triple):
        return None
    return Estimate(*(float(part) for part in triple if part is not None))


def _risk(explainer: Explainer, explained: Explained, patient: Patient) -> Risk:
    description, part = explainer.description, explained.route.submodel
    calibration = explained.route.calibrations[description.outcome]
    assert isinstance(calibration, Platt)
    outcome = explainer.scorer.outcome(explained.logit, explained.route)
    metrics = explainer.bundle.metrics
    measures = metrics["out_of_fold"][metrics["model"]]
    assert outcome.probability is not None
    return Risk(
        probability=outcome.probability,
        calibrated_logit=outcome.calibrated_logit,
        cohort_rate=description.prevalence,
        cohort_patients=description.trained_on,
        calibration=Calibration(
            method="Platt, on the folds' own models",
            patients=part.calibrated_on if part else description.calibrated_on,
            events=part.positives if part else metrics["out_of_fold"]["fused"]["events"],
            slope=calibration.slope,
            intercept=calibration.intercept,
        ),
        training=_training(explainer, patient),
        threshold=description.threshold,
        decision={"positive": "above the threshold", "negative": "below the threshold"}.get(
            outcome.decision, ""
        ),
        sensitivity=estimate(measures["recall"]) if description.threshold is not None else None,
        specificity=estimate(measures["specificity"]) if description.threshold is not None else None,
    )


def _block(name: str, modality: Modality, observed: Observed) -> InputBlock:
    declaration = modality.declaration
    source = observed.patient.sources.get(name, Absence("not_in_cohort"))
    absent = observed.absent.get(name, "")
    said = ABSENT.get(absent, f"refused by the loader: {absent.replace('_', ' ')}") if absent else ""
    if isinstance(declaration, ImageSpec):
        label = declaration.label or name
        series = (
            ()
            if absent or not isinstance(source, SeriesSource)
            else (_series(label, source, observed, name),)
        )
        return InputBlock(name=name, label=label, absent=said, series=series)
    if isinstance(source, TimedSeries) and isinstance(declaration, Mapping) and not absent:
        results = {key: spec for key, spec in declaration.items() if isinstance(spec, ResultSpec)}
        return InputBlock(
            name=name,
            label=name.capitalize(),
            fields=results_used(source, results),
            missing=results_missing(source, results),
        )
    if isinstance(source, NotesSource) and not absent:
        return InputBlock(name=name, label=name.capitalize(), fields=notes_used(source))
    if not isinstance(source, Mapping):
        return InputBlock(name=name, label=name.capitalize(), absent=said)
    known = {key: value for key, value in source.items() if value.status is Status.KNOWN}
    missing = [key for key, value in source.items() if value.status is Status.MISSING]
    left_out = {key: value for key, value in source.items() if value.status in LEFT_OUT}
    return InputBlock(
        name=name,
        label=name.capitalize(),
        absent=said,
        fields=tuple(
            _used(label_of(declaration, key), spec_of(declaration, key), value)
            for key, value in known.items()
        ),
        missing=tuple(label_of(declaration, key) for key in missing),
        not_used=tuple(
            (label_of(declaration, key), LEFT_OUT[value.status]) for key, value in left_out.items()
        ),
    )


def _series(label: str, source: SeriesSource, observed: Observed, name: str) -> UsedSeries:
    volume = observed.loaded[name]
    if isinstance(volume, Bag):
        return used_bag(label, source, volume)
    placed = getattr(volume, "affine", None)  # a waveform has no place
    spacing = " × ".join(f"{step:.2g}" for step in volume.spacing_mm) + " mm" if volume.spacing_mm else ""
    return UsedSeries(
        label=label,
        series=source.pseudonym,
        slices=volume.array.shape[2] if placed is not None and volume.array.ndim == 3 else 1,
        spacing=spacing,
        offset_days=source.offset_days,
        undated=source.undated,
    )


def _used(label: str, spec: FieldSpec | ResultSpec, value: Value) -> UsedField:
    number = value.value if isinstance(value.value, float | int) else None
    low, high = spec.reference or (None, None)
    position = ""
    if number is not None and low is not None and high is not None:
        position = "below" if number < low else "above" if number > high else "within"
    return UsedField(
        label=label,
        recorded=value.text,
        value=shown(value),
        unit=spec.unit or "",
        reference=f"{low:g} – {high:g}" if low is not None else "",
        position=position,  # type: ignore[arg-type]
        offset_days=value.offset_days,
        undated=value.undated,
    )


def _images(explainer: Explainer, observed: Observed) -> tuple[ImageEvidence, ...]:
    return tuple(
        image_evidence(explainer, observed, name)
        for name, modality in explainer.bundle.modalities.items()
        if modality.pictured and name in observed.inputs
    )
