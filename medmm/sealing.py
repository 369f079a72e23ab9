"""From a fitted network and its judgement to a bundle, and to what must stay beside it on this site.

runs/<run>/bundle/                 may travel: no patient is in it
runs/<run>/local/                  mode 0700, never tracked:
    population.safetensors         the full reference population of the explanations
    population-<pattern>.safetensors   the same as a submodel embeds it
    training.json                  pseudonyms that were trained on, with their out-of-fold logits
    certificates.parquet           volume certificates of every series that was opened
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from medmm import bundle
from medmm.arrays import Bools, Float32, Float64
from medmm.attribution.game import Reference
from medmm.attribution.gate import GatePatient, GateReport, gate
from medmm.attribution.reference import base_and_error, centroids, population, to_arrays
from medmm.choosing import Choice
from medmm.cohort.site import site_mark
from medmm.cohort.spec import CohortSpec
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import Final, OutOfFold, final_network
from medmm.fitting.final_inputs import check_read_back, prepared_inputs
from medmm.fitting.inputs import Inputs
from medmm.fitting.judgement import Judgement
from medmm.fitting.routing import Route
from medmm.network.export import export
from medmm.network.network import Network, same_encoder, used, weighed, widened
from medmm.network.weights import save_weights
from medmm.outcome import Component, columns, components, events, rates, scored
from medmm.outputs.certificates import write_certificates
from medmm.recipe import Joint
from medmm.report.cards import model_card
from medmm.runtime import Runtime

GATE_PATIENTS = 12
"""Patients on whom the sanity battery of a heat map is run."""

ENCODE_BATCH = 64


@dataclass(frozen=True, slots=True)
class Explained:
    """A bundle's networks with one component of their logits, ``logits @ direction``, as the logit."""

    runtime: Runtime
    direction: Float64

    def encode(self, name: str, x: Float32, /) -> Float32:
        """Return embeddings ``[batch, width]``."""
        return self.runtime.encode(name, x)

    def fuse(self, embeddings: Mapping[str, Float32], present: Bools, /) -> Float64:
        """Return one logit each, ``[batch]``."""
        logits = self.runtime.fuse(embeddings, present)
        return np.asarray((logits if logits.ndim > 1 else logits[:, None]) @ self.direction)


@dataclass(frozen=True, slots=True)
class _Sealing:
    """What every network of a bundle is sealed with.

    Attributes:
        inputs: every training patient's, prepared by the final modalities.
    """

    problem: Problem
    final: Final
    inputs: Inputs
    judgements: Mapping[str, Judgement]


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What is known of a network once its graphs are written.

    Attributes:
        whole: the reference population, as it embeds it.
        bases: per outcome and kind of reference, the base of an explanation.
        gates: per image, whether its heat maps can be shown.
    """

    whole: Reference
    bases: Mapping[str, Mapping[Any, float]]
    gates: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what metrics.json holds of it."""
        return {"gate": self.gates, "reference_bases": self.bases}


def shipped(chosen: Choice | None) -> list[str]:
    """Return the models that go into the bundle beside the fused one, each once."""
    routes = chosen.routing.submodels if chosen and chosen.routing else ()
    return list(dict.fromkeys(route.model for route in routes))


def seal(
    problem: Problem,
    out_of_fold: OutOfFold,
    judgements: Mapping[str, Judgement],
    *,
    run: Path,
    spec: CohortSpec,
    cohort_digest: str,
    chosen: Choice | None = None,
) -> str:
    """Make the final networks, write their bundle and the local folder beside it; return the bundle's hash.

    Args:
        chosen: the evidence that the model was chosen by, added to metrics.json; and its submodels.

    Raises:
        OutputError: if the place cannot be written.
        BundleError: if the bundle would not give what the networks give.
    """
    routes = chosen.routing.submodels if chosen and chosen.routing else ()
    final = final_network(problem, out_of_fold, shipped(chosen))
    sealing = _Sealing(problem, final, prepared_inputs(problem, final), judgements)
    with bundle.writing(run / "bundle") as folder:
        save_weights(final.network, folder / "weights.safetensors")
        export(final.network, {name: modality.shape for name, modality in final.modalities.items()}, folder)
        fused = _sealed(sealing, final.network, Runtime(folder), folder)
        parts, sealed = _seal_submodels(sealing, routes, folder)
        description = _describe(problem, judgements, final, spec, cohort_digest, fused.whole)
        description = description.model_copy(update={"submodels": parts})
        told = {name: judgement.to_json() for name, judgement in judgements.items()}
        metrics = told[problem.tasks[0].name] | {"outcomes": told}
        metrics |= fused.to_json() | (chosen.to_json() if chosen else {})
        metrics["submodels"] = {name: one.to_json() for name, one in sealed.items()}
        _write_plain(folder, sealing, description, metrics)
        check_read_back(folder, problem.rows, sealing.inputs)
        whole = {f"population-{name}": one.whole for name, one in sealed.items()}
        # Before the bundle takes its place: where there is a bundle, nothing of it is left to write.
        known = chosen.with_routed(out_of_fold) if chosen else out_of_fold
        _keep_local(run / "local", {"population": fused.whole} | whole, problem, judgements, known)
    return bundle.verify(run / "bundle")


def _write_plain(
    folder: Path, sealing: _Sealing, description: bundle.Description, metrics: Mapping[str, Any]
) -> None:
    bundle.write_json(folder / "bundle.json", description.model_dump(mode="json"))
    bundle.write_json(folder / "preprocess.json", bundle.preprocess_json(sealing.final.modalities))
    calibrations = {name: judged.calibration.to_json() for name, judged in sealing.judgements.items()}
    bundle.write_json(folder / "calibration.json", calibrations)
    bundle.write_json(folder / "metrics.json", metrics)
    (folder / "MODEL_CARD.md").write_text(model_card(description.model_dump(), metrics))


def _sealed(
    sealing: _Sealing, network: Network, runtime: Runtime, folder: Path, rows: Bools | None = None
) -> _Sealed:
    """Measure a network whose graphs are written, and write the centroids of its reference.

    Args:
        rows: ``[patient]``, whom it scores; without it, everybody.
    """
    problem, inputs = sealing.problem, sealing.inputs
    with_fields = [name for name in problem.rows if sealing.final.modalities[name].players()]
    whole = _population(runtime, inputs, with_fields)
    (folder / "reference").mkdir()
    means = centroids(whole, runtime, seed=problem.recipe.seed)
    save_file(to_arrays(means), folder / "reference" / "centroids.safetensors")
    parts = components(problem.tasks)
    asked = np.ones(len(problem.labels), bool) if rows is None else rows
    gates = {
        f"{name} ({part.name})" if len(parts) > 1 else name: _gate_json(
            _gate(sealing, network, asked, name, part)
        )
        for name in _pictured(problem)
        for part in parts
        if name in used(network)
    }
    bases = {
        part.name: {
            each.kind: base_and_error(Explained(runtime, part.direction), each)[0] for each in (whole, means)
        }
        for part in parts
    }
    return _Sealed(whole, bases, gates)


def _seal_submodels(
    sealing: _Sealing, routes: Sequence[Route], folder: Path
) -> tuple[tuple[bundle.Submodel, ...], dict[str, _Sealed]]:
    """Write every submodel; an encoder that is the very same as one written already is not written again."""
    final, parts, sealed = sealing.final, [], {}
    written: list[tuple[str, Network]] = [("", final.network)]
    runtimes = {"": Runtime(folder)}
    for route in routes:
        assert route.calibration is not None
        network = widened(final.submodels[route.model], final.network)
        part = _submodel(sealing, route, network, written)
        place = folder / part.folder
        place.mkdir(parents=True)
        elsewhere = {name: where for name, where in part.encoders.items() if where != part.folder}
        own = [name for name in network.names if name not in elsewhere]
        without = [f"encoders.{name}." for name in elsewhere]
        save_weights(network, place / "weights.safetensors", without=without)
        shapes = {name: modality.shape for name, modality in final.modalities.items()}
        export(network, shapes, place, encoders=own)
        shared = {name: runtimes[where] for name, where in elsewhere.items()}
        runtimes[part.folder] = Runtime(place, shared=shared)
        rows = _rows_of(sealing.inputs, route)
        sealed[part.name] = _sealed(sealing, network, runtimes[part.folder], place, rows)
        digest = sealed[part.name].whole.digest
        parts.append(part.model_copy(update={"reference_digest": digest}))
        calibration = {sealing.problem.tasks[0].name: route.calibration.to_json()}
        bundle.write_json(place / "calibration.json", calibration)
        written.append((part.folder, network))
    return tuple(parts), sealed


def _submodel(
    sealing: _Sealing, route: Route, network: Network, written: Sequence[tuple[str, Network]]
) -> bundle.Submodel:
    problem, rows = sealing.problem, _rows_of(sealing.inputs, route)
    fusion = problem.recipe.fusions.get(route.model, problem.recipe.fusion)
    names = used(network)
    alone = route.model in problem.modalities or (len(names) == 1 and isinstance(fusion, Joint))
    joined = {"kind": fusion.kind, "options": fusion.options()}
    part = bundle.Submodel(
        pattern=route.names,
        model=route.model,
        uses=names,
        # One modality alone is a base with nothing stacked upon it.
        fusion={"kind": "late_stack", "options": {}} if alone else joined,
        encoders={},
        calibrated_on=int(rows.sum()),
        positives=int(problem.labels[rows].sum()),
        reference_digest="",
        evaluations=problem.recipe.explanation.evaluations if "map" in fusion.needs and not alone else None,
    )
    encoders = {
        name: next(
            (where for where, other in written if same_encoder(network.encoders[name], other.encoders[name])),
            part.folder,
        )
        for name in network.names
    }
    return part.model_copy(update={"encoders": encoders})


def _rows_of(inputs: Inputs, route: Route) -> Bools:
    """Return the patients who have exactly the modalities of a route, ``[patient]``."""
    wanted = np.array([name in route.names for name in inputs.names])
    return np.asarray((inputs.present == wanted).all(axis=1))


def _pictured(problem: Problem) -> list[str]:
    return [name for name in problem.images if problem.modalities[name].pictured]


def _population(runtime: Runtime, inputs: Inputs, tables: Sequence[str]) -> Reference:
    """Encode every training patient through the sealed networks; keep the rows of what has fields."""
    present = inputs.present
    embeddings, rows = {}, {}
    for column, (name, entry) in enumerate(inputs.prepared.items()):
        values = np.zeros((len(present), runtime.widths[name]), np.float32)
        known = np.flatnonzero(present[:, column])
        for start in range(0, len(known), ENCODE_BATCH):
            chunk = known[start : start + ENCODE_BATCH]
            values[chunk] = runtime.encode(name, np.asarray(entry.array[entry.row_of[chunk]], np.float32))
        embeddings[name] = values
        if name in tables:
            rows[name] = np.asarray(entry.array, np.float32)
    scored = present.any(axis=1)
    return population(
        inputs.names,
        present[scored],
        {name: values[scored] for name, values in embeddings.items()},
        {name: values[scored] for name, values in rows.items()},
    )


def _gate(sealing: _Sealing, network: Network, asked: Bools, name: str, explained: Component) -> GateReport:
    """Run the sanity battery on a few training patients who have the image, chosen by the recipe's seed."""
    problem, inputs = sealing.problem, sealing.inputs
    judgement = sealing.judgements[explained.task.name]
    have = np.flatnonzero((inputs.prepared[name].row_of >= 0) & asked)
    chosen = np.sort(np.random.default_rng(problem.recipe.seed).permutation(have)[:GATE_PATIENTS])
    patients = []
    for row in chosen:
        values, present = inputs.batch(np.array([row]))
        arrays = {key: tensor[0].numpy() for key, tensor in values.items()}
        patients.append(GatePatient(arrays, present[0].numpy().astype(bool)))
    figures, own = judgement.figures[name], f"auroc.{explained.task.components[explained.index]}"
    ranked = figures.get(own) or figures.get("auroc") or figures["c_index"]
    shown = weighed(network, explained.direction.tolist())
    return gate(shown, patients, name, skill=(ranked, judgement.counts[name][0]), seed=problem.recipe.seed)


def _gate_json(found: GateReport) -> dict[str, Any]:
    return {"passed": found.passed, "sentence": found.sentence, "checks": [asdict(row) for row in found.rows]}


def _describe(
    problem: Problem,
    judgements: Mapping[str, Judgement],
    final: Final,
    spec: CohortSpec,
    cohort_digest: str,
    whole: Reference,
) -> bundle.Description:
    recipe, labels, first = problem.recipe, columns(problem.labels), problem.tasks[0]
    positives, prevalence = events(first, labels[:, 0])
    return bundle.Description(
        medmm_version=version("medmm"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=recipe.name,
        question=recipe.question,
        intended_use=recipe.intended_use,
        outcome=first.name,
        outcome_label=spec.outcomes[first.name].label or first.name,
        modalities=tuple(final.modalities),
        fusion=_fusion(problem, final),
        evaluations=recipe.explanation.evaluations if "map" in recipe.fusion.needs else None,
        final_model=recipe.final_model,
        members=final.members,
        cohort=spec.name,
        cohort_digest=cohort_digest,
        trained_on=len(labels),
        positives=positives,
        prevalence=prevalence,
        threshold=judgements[first.name].threshold,
        tasks=tuple(task.to_json() for task in problem.tasks),
        rates={task.name: rates(task, own) for task, own in zip(problem.tasks, labels.T, strict=True)},
        thresholds={
            name: one.threshold
            for name, one in judgements.items()
            if one.threshold is not None and name != first.name
        },
        calibrated_on=int(scored(judgements[first.name].calibrated).sum()),
        seed=recipe.seed,
        reference_digest=whole.digest,
    )


def _fusion(problem: Problem, final: Final) -> dict[str, Any]:
    """Return the fusion as it is built again; one modality alone is a base with nothing stacked upon it."""
    wider = {"outputs": problem.outputs} if problem.outputs > 1 else {}
    if len(final.modalities) == 1:
        return {"kind": "late_stack", "options": wider}
    return {"kind": problem.recipe.fusion.kind, "options": problem.recipe.fusion.options() | wider}


def _keep_local(
    folder: Path,
    populations: Mapping[str, Reference],
    problem: Problem,
    judgements: Mapping[str, Judgement],
    out_of_fold: OutOfFold,
) -> None:
    """Keep what describes patients out of the bundle, readable by this user alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, whole in populations.items():
        save_file(to_arrays(whole), folder / f"{name}.safetensors")
    record = {
        "site": site_mark(),
        "pseudonyms": list(problem.pseudonyms),
        "model": judgements[problem.tasks[0].name].model,
        "folds": out_of_fold.folds.tolist(),
        "calibrated": _listed(judgements[problem.tasks[0].name].calibrated),
        "outcomes": {name: _listed(judgement.calibrated) for name, judgement in judgements.items()},
        "logits": {model: _listed(logits) for model, logits in out_of_fold.logits.items()},
    }
    (folder / "training.json").write_text(json.dumps(record))
    rows = [row for prepared in problem.images.values() for row in prepared.certificates]
    write_certificates(rows, folder / "certificates.parquet")
    for file in folder.iterdir():
        file.chmod(0o600)


def _listed(logits: Float64) -> list[Any]:
    if logits.ndim > 1:
        return [_listed(row) for row in logits]
    return [None if np.isnan(value) else float(value) for value in logits]
