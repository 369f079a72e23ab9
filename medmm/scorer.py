"""One patient through a bundle: observe, encode, fuse, calibrate. No torch, and always a batch of one.

A patient is scored alone even when a whole cohort is, so a score cannot depend on who else is scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medmm.arrays import Bools, Float32, Float64
from medmm.bundle import Bundle, Submodel
from medmm.calibration import Calibration
from medmm.cohort.site import site_mark
from medmm.columns import ImageSpec, NotesSpec
from medmm.errors import BundleError, ConfigError, DataError, DicomRefusal
from medmm.modality import Declaration, present
from medmm.outcome import TIMES, Component, Task, components, part, read, width
from medmm.runtime import Runtime
from medmm.sample import (
    Absence,
    NotesSource,
    Outcome,
    Patient,
    Score,
    SeriesSource,
    Source,
    TimedSeries,
)

TRAINED_ON = "this patient was trained on: the score is optimistic"

FIELD_CONTRACT = ("kind", "unit", "levels", "summary", "window_days", "scale")
"""What must be declared of a field as it was when the bundle was trained.

So must its code, where both declare one: a site that finds a result by name is believed.
"""

IMAGE_CONTRACT = ("kind", "labels", "mask", "volume")
NOTES_CONTRACT = ("take", "window_days")


@dataclass(frozen=True, slots=True)
class Observed:
    """What the networks see of one patient, and what it was made from.

    Attributes:
        loaded: per modality that could be read, the volume or the row.
        inputs: per modality that is present, what its encoder sees.
        rows: per table that could be read, its transformed row, present or not.
        absent: per modality that is not, why.
    """

    patient: Patient
    loaded: Mapping[str, Any]
    inputs: Mapping[str, Float32]
    rows: Mapping[str, Float32]
    absent: Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """What scores a patient: the fused network, or the submodel of exactly the patient's modalities.

    Attributes:
        name: of the submodel; empty of the fused network.
        runtime: its graphs.
        calibrations: per outcome.
        uses: modalities that its logit depends on.
        submodel: what the bundle says of it; None of the fused network.
    """

    name: str
    runtime: Runtime
    calibrations: Mapping[str, Calibration]
    uses: tuple[str, ...]
    submodel: Submodel | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A patient's embeddings ``[width]`` per modality, zeros where absent.

    Attributes:
        present: ``[modality]``.
        route: whose embeddings they are.
    """

    embeddings: Mapping[str, Float32]
    present: Bools
    route: Route


class Scorer:
    """A bundle ready to score; opens the networks once.

    Args:
        bundle: verified.
        declarations: what the cohort that is scored declares of its blocks.

    Raises:
        ConfigError: if the cohort declares a field or an image otherwise than the bundle was trained on.
    """

    def __init__(self, bundle: Bundle, declarations: Mapping[str, Declaration]) -> None:
        check_contract(bundle, declarations)
        self.bundle = bundle
        self.fused = Route("", Runtime(bundle.folder), bundle.calibrations, bundle.description.modalities)
        self.routes = {frozenset(route.name.split("+")): route for route in _routes(bundle, self.fused)}

    def observe(self, patient: Patient) -> Observed:
        """Read and transform every modality of one patient; a refused series is an absence."""
        loaded: dict[str, Any] = {}
        inputs: dict[str, Float32] = {}
        rows: dict[str, Float32] = {}
        absent: dict[str, str] = {}
        warnings: list[str] = []
        for name, modality in self.bundle.modalities.items():
            source = patient.sources.get(name, Absence("not_in_cohort"))
            if isinstance(source, Absence):
                absent[name] = source.reason
                continue
            try:
                loaded[name] = modality.load(source)
                values = modality.transform(loaded[name])
            except DicomRefusal as refusal:
                absent[name] = refusal.reason
                continue
            except DataError:
                absent[name] = "invalid"
                continue
            players = modality.players()
            if players:
                rows[name] = values
            if not present(players, values):
                absent[name] = "no_known_value"
                continue
            inputs[name] = values
            warnings += modality.warnings(loaded[name])
        return Observed(patient, loaded, inputs, rows, absent, tuple(warnings))

    def route(self, observed: Observed) -> Route:
        """Return what scores one patient, by what could be read of the patient."""
        return self.routes.get(frozenset(observed.inputs), self.fused)

    def encode(self, observed: Observed) -> Encoded:
        """Return the embeddings of one patient."""
        route, names = self.route(observed), self.bundle.description.modalities
        embeddings = {
            name: route.runtime.encode(name, observed.inputs[name][np.newaxis])[0]
            if name in observed.inputs and name in route.uses
            else np.zeros(route.runtime.widths[name], np.float32)
            for name in names
        }
        return Encoded(embeddings, np.array([name in observed.inputs for name in names]), route)

    def logits(self, encoded: Encoded) -> Float64:
        """Return the uncalibrated logits ``[output]``: the record that all else must agree with."""
        batch = {name: values[np.newaxis] for name, values in encoded.embeddings.items()}
        logits = np.atleast_1d(encoded.route.runtime.fuse(batch, encoded.present[np.newaxis])[0])
        if not np.isfinite(logits).all():
            raise BundleError("the network gives no finite logit; the bundle is damaged")
        return np.asarray(logits, dtype=np.float64)

    def logit(self, encoded: Encoded, component: Component | None = None) -> float:
        """Return one component of the logits, by default the first: what an explanation takes apart."""
        asked = component or self.components[0]
        return float(self.logits(encoded) @ asked.direction)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Everything that can be explained: each outcome, or each class of one with several."""
        return components(self.bundle.tasks)

    def score(self, patient: Patient) -> Score:
        """Score one patient; whoever cannot be scored gets a row with the reason."""
        observed = self.observe(patient)
        reason = self.refusal(observed)
        route = self.fused if reason else self.route(observed)
        outcomes = {} if reason else self.outcomes(self.logits(self.encode(observed)), route)
        return Score(
            subject_id=patient.subject_id,
            status="refused" if reason else "scored",
            reason=reason,
            outcomes=outcomes,
            modalities={
                name: observed.absent.get(name, "used" if name in route.uses else "not_in_submodel")
                for name in self.bundle.description.modalities
            },
            bundle_sha256=self.bundle.sha256,
            as_of_days=_as_of(observed),
            undated=sum(
                _undated(source) for name, source in patient.sources.items() if name in observed.inputs
            ),
            warnings=observed.warnings + ((TRAINED_ON,) if self.trained(patient) else ()),
            submodel=route.name,
        )

    def trained(self, patient: Patient) -> bool | None:
        """Tell whether a patient was trained on; None where that cannot be known."""
        return None if self.trained_on is None else patient.pseudonym in self.trained_on

    @cached_property
    def trained_on(self) -> frozenset[str] | None:
        """Pseudonyms of the training patients, where the bundle lies in its run under the same site key."""
        file = self.bundle.folder.parent / "local" / "training.json"
        try:
            record = json.loads(file.read_text())
            return frozenset(record["pseudonyms"]) if record["site"] == site_mark() else None
        except (OSError, ValueError, KeyError):
            return None

    def refusal(self, observed: Observed) -> str:
        """Return why a patient cannot be scored, or an empty text."""
        for name, modality in self.bundle.modalities.items():
            declaration = modality.declaration
            if isinstance(declaration, ImageSpec) and declaration.required and name in observed.absent:
                return f"{name} is required: {observed.absent[name]}"
        return "" if observed.inputs else "no_data"

    def outcomes(self, logits: Float64, route: Route | None = None) -> dict[str, Outcome]:
        """Return every outcome of one patient's logits ``[output]``, by default of the fused network."""
        calibrations = (route or self.fused).calibrations
        found, tasks = {}, self.bundle.tasks
        for index, task in enumerate(tasks):
            own = logits if width(tasks) == 1 else part(logits[None], tasks, index)[0]
            own = np.asarray(own[0]) if own.ndim and task.outputs == 1 else own
            threshold = self.bundle.description.threshold_of(task.name)
            found[task.name] = outcome_of(task, own, calibrations[task.name], threshold)
        return found

    def outcome(self, logit: float, route: Route | None = None) -> Outcome:
        """Return the calibrated outcome of a logit of a bundle with one binary outcome."""
        return self.outcomes(np.array([logit]), route)[self.bundle.description.outcome]

    def calibrated(self, task: Task, logits: Float64, routes: Sequence[Route]) -> Float64:
        """Return the calibrated logits of several patients, each by what scored the patient.

        Args:
            task: the outcome.
            logits: its uncalibrated ones, ``[patient]`` or ``[patient, output]``.
            routes: per patient.
        """
        if not self.routes:
            return np.asarray(self.bundle.calibrations[task.name].apply(logits))
        own = [route.calibrations[task.name].apply(row) for route, row in zip(routes, logits, strict=True)]
        return np.array(own, dtype=np.float64)


def _routes(bundle: Bundle, fused: Route) -> Iterator[Route]:
    """Open the submodels; an encoder that lies elsewhere is shared with the runtime that opened it.

    Raises:
        BundleError: if a submodel names a folder that holds none.
    """
    runtimes = {"": fused.runtime}
    for own in bundle.description.submodels:
        elsewhere = {name: folder for name, folder in own.encoders.items() if folder != own.folder}
        unknown = sorted(set(elsewhere.values()) - set(runtimes))
        if unknown:
            raise BundleError(f"submodel {own.name} takes an encoder of {unknown[0]!r}, which is none")
        shared = {name: runtimes[folder] for name, folder in elsewhere.items()}
        runtimes[own.folder] = Runtime(bundle.folder / own.folder, shared=shared)
        yield Route(own.name, runtimes[own.folder], bundle.routed[own.name], own.uses, own)


def outcome_of(task: Task, logits: Float64, calibration: Calibration, threshold: float | None) -> Outcome:
    """Return one calibrated outcome of one patient.

    Args:
        task: the outcome.
        logits: ``[]`` where it has one output, else ``[output]``; uncalibrated.
        calibration: of the outcome.
        threshold: of a binary outcome, the risk at and above which it is decided "positive".
    """
    calibrated = calibration.apply(logits)
    said = read(task, calibrated)
    if task.kind == "binary":
        probability = float(said)
        decision = "" if threshold is None else "positive" if probability >= threshold else "negative"
        return Outcome("binary", float(logits), float(calibrated), probability, decision)
    if task.kind == "regression":
        return Outcome(task.kind, float(logits), float(said), None, value=float(said))
    if task.kind in TIMES:
        risks = {f"{end:g}": float(1 - alive) for end, alive in zip(task.ends, said, strict=True)}
        score = float(logits) if task.outputs == 1 else float(task.component(logits, 0))
        level = float(calibrated.mean())
        return Outcome(task.kind, score, level, risks[f"{task.ends[-1]:g}"], probabilities=risks)
    place = int(said.argmax())
    shares = dict(zip(task.classes, map(float, said), strict=True))
    if task.kind == "ordinal":
        decided = task.classes[place]
        return Outcome(
            task.kind, float(logits), float(calibrated[0]), shares[decided], decided, probabilities=shares
        )
    above = {name: float(task.component(logits, index)) for index, name in enumerate(task.classes)}
    return Outcome(
        kind=task.kind,
        logit=above[task.classes[place]],
        calibrated_logit=float(task.component(calibrated, place)),
        probability=float(said[place]),
        decision=task.classes[place],
        probabilities=shares,
        logits=above,
    )


def check_contract(bundle: Bundle, declarations: Mapping[str, Declaration]) -> None:
    """Refuse a cohort whose values would mean something else than those the bundle was trained on.

    Raises:
        ConfigError: naming the field and both declarations.
    """
    for name, modality in bundle.modalities.items():
        if name not in declarations:
            continue  # absent for everybody, which every score will say
        trained, given = modality.declaration, declarations[name]
        if isinstance(trained, ImageSpec) or isinstance(given, ImageSpec):
            _same(f"image block {name}", trained, given, IMAGE_CONTRACT)
            continue
        if isinstance(trained, NotesSpec) or isinstance(given, NotesSpec):
            _same(name, trained, given, NOTES_CONTRACT)
            continue
        for field, spec in trained.items():
            if field not in given:
                raise ConfigError(
                    f"the bundle uses {name}.{field}, which the cohort does not declare as an input"
                )
            coded = ("code",) if spec.code and given[field].code else ()
            _same(f"{name}.{field}", spec, given[field], (*FIELD_CONTRACT, *coded))


def _same(what: str, trained: object, given: object, keys: tuple[str, ...]) -> None:
    for key in keys:
        was, now = getattr(trained, key, None), getattr(given, key, None)
        if was != now:
            raise ConfigError(
                f"{what} was trained with {key} {was!r}, and this cohort declares {now!r}: its numbers would "
                "mean something else. Declare it as the bundle does; units convert by themselves"
            )


def _as_of(observed: Observed) -> dict[str, float | None]:
    as_of: dict[str, float | None] = {}
    for name in observed.inputs:
        source = observed.patient.sources[name]
        if isinstance(source, SeriesSource):
            as_of[name] = source.offset_days
        elif isinstance(source, TimedSeries | NotesSource):
            as_of[name] = source.as_of_days
        elif not isinstance(source, Absence):
            as_of |= {
                f"{name}.{field}": value.offset_days
                for field, value in source.items()
                if value.value is not None
            }
    return as_of


def _undated(source: Source) -> int:
    if isinstance(source, SeriesSource | TimedSeries | NotesSource):
        return int(source.undated)
    if isinstance(source, Absence):
        return 0
    return sum(value.undated for value in source.values())
