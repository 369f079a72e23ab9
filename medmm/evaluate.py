"""Opening the held-out patients: the bundle scored on people that nothing was chosen on, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from medmm.bundle import Bundle, load
from medmm.cohort.link import link
from medmm.cohort.site import index_cache, site_key
from medmm.cohort.spec import data_root, load_spec
from medmm.cohort.split import assign, divide
from medmm.errors import DataError
from medmm.evaluation.discrimination import performance
from medmm.scorer import Scorer

Progress = Callable[[str, int, int], None]


def evaluate(
    bundle: Path, cohort: Path, *, root: Path | None = None, progress: Progress | None = None
) -> list[str]:
    """Score the held-out patients and return figures with 95 % intervals, as lines for a terminal.

    Every opening is written to ``openings.jsonl`` beside the bundle: a held-out set that is opened often
    is held out no longer.

    Raises:
        DataError: if the cohort holds nobody out, or those held out are of one class.
    """
    loaded = load(bundle)
    spec = load_spec(cohort)
    scanning = None if progress is None else lambda done, total: progress("scanning DICOM", done, total)
    linked = link(spec, data_root(spec, root), key=site_key(), index_cache=index_cache(), progress=scanning)
    linked = assign(linked, divide(linked))
    outcome = loaded.description.outcome
    patients = [p for p in linked.patients if p.split == "held_out" and outcome in p.targets]
    if not patients:
        raise DataError(
            f"cohort {spec.name} holds nobody out (splits.held_out is {spec.splits.held_out}); the honest "
            "figure is the out-of-fold one, in the bundle's metrics.json"
        )
    scorer = Scorer(loaded)
    logits, labels = [], []
    for done, patient in enumerate(patients):
        score = scorer.score(patient)
        if score.status == "scored":
            logits.append(score.outcomes[outcome].calibrated_logit)
            labels.append(patient.targets[outcome])
        if progress:
            progress("scoring", done + 1, len(patients))
    figures = performance(np.array(labels), np.array(logits), threshold=loaded.description.threshold or 0.5)
    opening = _count(loaded)
    return [
        f"held out {len(patients)} = {len(labels)} scored + {len(patients) - len(labels)} refused; "
        f"{int(sum(labels))} positive",
        *(f"{name:<12} {figure}" for name, figure in figures.items()),
        f"this was opening {opening} of the held-out patients by this bundle",
    ]


def _count(bundle: Bundle) -> int:
    """Note this opening beside the bundle, whose own bytes never change, and return which one it was."""
    file = bundle.folder.with_name("openings.jsonl")
    with file.open("a") as stream:
        opened = datetime.now(UTC).isoformat(timespec="seconds")
        stream.write(json.dumps({"bundle": bundle.sha256, "opened": opened}) + "\n")
    return sum(bundle.sha256 in line for line in file.read_text().splitlines())
