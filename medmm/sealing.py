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
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from medmm import bundle
from medmm.arrays import Float64
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
from medmm.network.weights import save_weights
from medmm.outputs.certificates import write_certificates
from medmm.report.cards import model_card
from medmm.runtime import Runtime

GATE_PATIENTS = 12
"""Patients on whom the sanity battery of a heat map is run."""

ENCODE_BATCH = 64


def seal(
    problem: Problem,
    out_of_fold: OutOfFold,
    judgement: Judgement,
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
        description = _describe(problem, judgement, final, spec, cohort_digest, whole)
        gates = {
            name: _gate_json(_gate(problem, final, inputs, name, judgement)) for name in _pictured(problem)
        }
        bases = {each.kind: base_and_error(runtime, each)[0] for each in (whole, means)}
        metrics = judgement.to_json() | {"gate": gates, "reference_bases": bases} | dict(chosen or {})
        bundle.write_json(folder / "bundle.json", description.model_dump(mode="json"))
        bundle.write_json(folder / "preprocess.json", bundle.preprocess_json(final.modalities))
        bundle.write_json(folder / "calibration.json", judgement.calibration.to_json())
        bundle.write_json(folder / "metrics.json", metrics)
        (folder / "MODEL_CARD.md").write_text(model_card(description.model_dump(), metrics))
    _keep_local(run / "local", whole, problem, judgement, out_of_fold)
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


def _gate(problem: Problem, final: Final, inputs: Inputs, name: str, judgement: Judgement) -> GateReport:
    """Run the sanity battery on a few training patients who have the image, chosen by the recipe's seed."""
    have = np.flatnonzero(inputs.prepared[name].row_of >= 0)
    chosen = np.sort(np.random.default_rng(problem.recipe.seed).permutation(have)[:GATE_PATIENTS])
    patients = []
    for row in chosen:
        values, present = inputs.batch(np.array([row]))
        arrays = {key: tensor[0].numpy() for key, tensor in values.items()}
        patients.append(GatePatient(arrays, present[0].numpy().astype(bool)))
    skill = (judgement.figures[name]["auroc"], judgement.counts[name][0])
    return gate(final.network, patients, name, skill=skill, seed=problem.recipe.seed)


def _gate_json(found: GateReport) -> dict[str, Any]:
    return {"passed": found.passed, "sentence": found.sentence, "checks": [asdict(row) for row in found.rows]}


def _describe(
    problem: Problem,
    judgement: Judgement,
    final: Final,
    spec: CohortSpec,
    cohort_digest: str,
    whole: Reference,
) -> bundle.Description:
    recipe, labels = problem.recipe, problem.labels
    outcome = spec.outcomes[recipe.outcome]
    return bundle.Description(
        medmm_version=version("medmm"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=recipe.name,
        question=recipe.question,
        intended_use=recipe.intended_use,
        outcome=recipe.outcome,
        outcome_label=outcome.label or recipe.outcome,
        modalities=tuple(final.modalities),
        # One modality alone is a base with nothing stacked upon it.
        fusion={"kind": recipe.fusion.kind, "options": recipe.fusion.options()}
        if len(final.modalities) > 1
        else {"kind": "late_stack", "options": {}},
        evaluations=recipe.explanation.evaluations if "map" in recipe.fusion.needs else None,
        final_model=recipe.final_model,
        members=final.members,
        cohort=spec.name,
        cohort_digest=cohort_digest,
        trained_on=len(labels),
        positives=int(labels.sum()),
        prevalence=float(labels.mean()),
        threshold=judgement.threshold,
        calibrated_on=int(np.isfinite(judgement.calibrated).sum()),
        seed=recipe.seed,
        reference_digest=whole.digest,
    )


def _keep_local(
    folder: Path, whole: Reference, problem: Problem, judgement: Judgement, out_of_fold: OutOfFold
) -> None:
    """Keep what describes patients out of the bundle, readable by this user alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    save_file(to_arrays(whole), folder / "population.safetensors")
    record = {
        "site": site_mark(),
        "pseudonyms": list(problem.pseudonyms),
        "folds": out_of_fold.folds.tolist(),
        "calibrated": _listed(judgement.calibrated),
        "logits": {model: _listed(logits) for model, logits in out_of_fold.logits.items()},
    }
    (folder / "training.json").write_text(json.dumps(record))
    rows = [row for prepared in problem.images.values() for row in prepared.certificates]
    write_certificates(rows, folder / "certificates.parquet")
    for file in folder.iterdir():
        file.chmod(0o600)


def _listed(logits: Float64) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in logits]
