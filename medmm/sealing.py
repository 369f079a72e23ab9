"""From a fitted network and its judgement to a bundle, and to what must stay beside it on this site.

runs/<run>/bundle/                 may travel: no patient is in it
runs/<run>/local/                  mode 0700, never tracked:
    population.safetensors         the full reference population of the explanations
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
from medmm.cohort.site import site_mark
from medmm.cohort.spec import CohortSpec
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import Final, OutOfFold, final_network
from medmm.fitting.inputs import Inputs, prepare_table
from medmm.fitting.judgement import Judgement
from medmm.network.export import export
from medmm.network.network import weighed
from medmm.network.weights import save_weights
from medmm.outcome import TIMES, Component, columns, components, rates, scored
from medmm.outputs.certificates import write_certificates
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


def seal(
    problem: Problem,
    out_of_fold: OutOfFold,
    judgements: Mapping[str, Judgement],
    *,
    run: Path,
    spec: CohortSpec,
    cohort_digest: str,
    chosen: Mapping[str, Any] | None = None,
) -> str:
    """Make the final network, write its bundle and the local folder beside it; return the bundle's hash.

    Args:
        chosen: evidence that the model was chosen by, added to metrics.json.

    Raises:
        OutputError: if the place cannot be written.
    """
    final = final_network(problem, out_of_fold)
    with bundle.writing(run / "bundle") as folder:
        save_weights(final.network, folder / "weights.safetensors")
        export(final.network, {name: modality.shape for name, modality in final.modalities.items()}, folder)
        runtime = Runtime(folder)
        inputs = prepared_inputs(problem, final)
        with_fields = [name for name in problem.rows if final.modalities[name].players()]
        whole = _population(runtime, inputs, with_fields)
        (folder / "reference").mkdir()
        means = centroids(whole, runtime, seed=problem.recipe.seed)
        save_file(to_arrays(means), folder / "reference" / "centroids.safetensors")
        description = _describe(problem, judgements, final, spec, cohort_digest, whole)
        parts = components(problem.tasks)
        gates = {
            f"{name} ({part.name})" if len(parts) > 1 else name: _gate_json(
                _gate(problem, final, inputs, name, judgements[part.task.name], part)
            )
            for name in _pictured(problem)
            for part in parts
        }
        bases = {
            part.name: {
                each.kind: base_and_error(Explained(runtime, part.direction), each)[0]
                for each in (whole, means)
            }
            for part in parts
        }
        told = {name: judgement.to_json() for name, judgement in judgements.items()}
        metrics = told[problem.tasks[0].name] | {"outcomes": told, "gate": gates, "reference_bases": bases}
        metrics |= dict(chosen or {})
        bundle.write_json(folder / "bundle.json", description.model_dump(mode="json"))
        bundle.write_json(folder / "preprocess.json", bundle.preprocess_json(final.modalities))
        calibrations = {name: judgement.calibration.to_json() for name, judgement in judgements.items()}
        bundle.write_json(folder / "calibration.json", calibrations)
        bundle.write_json(folder / "metrics.json", metrics)
        (folder / "MODEL_CARD.md").write_text(model_card(description.model_dump(), metrics))
    _keep_local(run / "local", whole, problem, judgements, out_of_fold)
    return bundle.verify(run / "bundle")


def _pictured(problem: Problem) -> list[str]:
    return [name for name in problem.images if problem.modalities[name].pictured]


def prepared_inputs(problem: Problem, final: Final) -> Inputs:
    """Prepare every training patient with the bundle's own modalities."""
    return Inputs(
        {
            name: problem.images[name]
            if name in problem.images
            else prepare_table(modality, problem.rows[name])
            for name, modality in final.modalities.items()
        }
    )


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


def _gate(
    problem: Problem, final: Final, inputs: Inputs, name: str, judgement: Judgement, explained: Component
) -> GateReport:
    """Run the sanity battery on a few training patients who have the image, chosen by the recipe's seed."""
    have = np.flatnonzero(inputs.prepared[name].row_of >= 0)
    chosen = np.sort(np.random.default_rng(problem.recipe.seed).permutation(have)[:GATE_PATIENTS])
    patients = []
    for row in chosen:
        values, present = inputs.batch(np.array([row]))
        arrays = {key: tensor[0].numpy() for key, tensor in values.items()}
        patients.append(GatePatient(arrays, present[0].numpy().astype(bool)))
    figures, own = judgement.figures[name], f"auroc.{explained.task.components[explained.index]}"
    ranked = figures.get(own) or figures.get("auroc") or figures["c_index"]
    network = weighed(final.network, explained.direction.tolist())
    return gate(network, patients, name, skill=(ranked, judgement.counts[name][0]), seed=problem.recipe.seed)


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
    known = labels[np.isfinite(labels[:, 0]), 0]
    judgement = judgements[first.name]
    counted = first.kind == "binary" or first.kind in TIMES
    wider = {"outputs": problem.outputs} if problem.outputs > 1 else {}
    return bundle.Description(
        medmm_version=version("medmm"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=recipe.name,
        question=recipe.question,
        intended_use=recipe.intended_use,
        outcome=first.name,
        outcome_label=spec.outcomes[first.name].label or first.name,
        modalities=tuple(final.modalities),
        # One modality alone is a base with nothing stacked upon it.
        fusion={"kind": recipe.fusion.kind, "options": recipe.fusion.options() | wider}
        if len(final.modalities) > 1
        else {"kind": "late_stack", "options": wider},
        evaluations=recipe.explanation.evaluations if "map" in recipe.fusion.needs else None,
        final_model=recipe.final_model,
        members=final.members,
        cohort=spec.name,
        cohort_digest=cohort_digest,
        trained_on=len(labels),
        positives=int((known > 0).sum()) if counted else len(known),
        prevalence=float((known > 0).mean()) if counted else 1.0,
        threshold=judgement.threshold,
        tasks=tuple(task.to_json() for task in problem.tasks),
        rates={task.name: rates(task, own) for task, own in zip(problem.tasks, labels.T, strict=True)},
        thresholds={
            name: one.threshold
            for name, one in judgements.items()
            if one.threshold is not None and name != first.name
        },
        calibrated_on=int(scored(judgement.calibrated).sum()),
        seed=recipe.seed,
        reference_digest=whole.digest,
    )


def _keep_local(
    folder: Path,
    whole: Reference,
    problem: Problem,
    judgements: Mapping[str, Judgement],
    out_of_fold: OutOfFold,
) -> None:
    """Keep what describes patients out of the bundle, readable by this user alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    save_file(to_arrays(whole), folder / "population.safetensors")
    record = {
        "site": site_mark(),
        "pseudonyms": list(problem.pseudonyms),
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
