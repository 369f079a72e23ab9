"""The draft of a recipe as text: what the planner proposes, each line with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from medmm.cohort.draft import guess
from medmm.cohort.draft.guess import Parts
from medmm.cohort.draft.images import Block
from medmm.cohort.draft.lines import Lines, flow, line_of
from medmm.cohort.draft.profile import Column, Sheet, Survey, words_of
from medmm.cohort.fingerprint import rarer
from medmm.planning.fingerprint import Fingerprint, TablePrint, events_told
from medmm.planning.machine import this_machine
from medmm.planning.propose import Plan, propose


def recipe_text(survey: Survey, parts: Parts, images: Sequence[Block], name: str, cohort: str) -> str:
    """Return the drafted recipe.yaml.

    Args:
        images: of :func:`~medmm.cohort.draft.images.image_blocks`.
        name: of the pipeline.
        cohort: folder of cohort.yaml, relative to the recipe.
    """
    candidates = [
        (sheet, column) for sheet in parts.labels for column in guess.outcomes(sheet, survey).values()
    ]
    plan = propose(_fingerprint(survey, parts, images, candidates))
    modalities = list(_modalities(parts, images, plan))
    question = "the one you predict, as in cohort.yaml" if len(candidates) != 1 else ""
    outcome = guess.slug(candidates[0][1].name) if candidates else "outcome"
    lines = [
        "schema_version: 1",
        f"name: {re.sub(r'[^a-z0-9_]+', '_', name.lower())}",
        line_of(0, "question", "", "what does the model answer, in one sentence?"),
        line_of(0, "intended_use", "Research. Not for the care of patients."),
        f"cohort: {flow(cohort)}",
        line_of(0, "outcome", outcome, question),
        "modalities:",
        *modalities,
        *_fusion(len(images) + (parts.records is not None) + (parts.results is not None)),
        "fitting:",
        *(line_of(1, key, one.value, reason=one.reason) for key, one in plan.under("fitting").items()),
        "final_model: fold_ensemble",
        "seed: 0",
    ]
    return "\n".join(lines) + "\n"


_PLACES = {
    "frames": "of each loop, evenly spaced",
    "images": "places: nine of ten studies have no more pictures, or loops with so many frames",
}


def _modalities(parts: Parts, images: Sequence[Block], plan: Plan) -> Lines:
    for block in images:
        yield f"  {block.name}:"
        if block.recordings is not None:
            yield line_of(2, "kind", "waveform")
            for key, value, reason in block.recordings.settings():
                yield line_of(2, key, value, reason=reason)
            continue
        places = block.pictures
        yield line_of(2, "kind", "bag" if places else "image")
        for key, count in places.items():
            yield line_of(2, key, count, reason=_PLACES[key])
        for key, one in plan.under(f"modalities.{block.name}").items():
            yield line_of(2, key, one.value, reason=one.reason)
    if parts.records is not None:
        yield line_of(1, "records", {"kind": "records"})
    if parts.results is not None:
        yield line_of(1, "biomarkers", {"kind": "biomarkers"})


def _fusion(modalities: int) -> Iterator[str]:
    if modalities > 1:
        reason = "each modality learns alone and what they say is averaged: nothing to fit (docs/fusion.md)"
        yield line_of(0, "fusion", {"kind": "late_mean"}, reason=reason)


def _fingerprint(
    survey: Survey, parts: Parts, images: Sequence[Block], candidates: list[tuple[Sheet, Column]]
) -> Fingerprint:
    """Return what the tables' heads and the measured series say; of an outcome, only how many have it."""
    events = None
    if candidates:
        sheet, column = candidates[0]
        counts = dict(words_of(survey.root, sheet.name, [column.name]))
        kind = guess.outcome_of(column)
        words = [word for word in column.words if word not in kind.get("missing_codes", ())]
        labels = [float(place) for place, word in enumerate(words) for _ in range(counts[(word,)])]
        events = events_told(rarer(kind.get("kind", "binary"), labels))
    prints = {block.name: block.image for block in images if block.recordings is None}
    tables = {}
    if parts.records is not None:
        inputs = [c for c in parts.records.columns.values() if guess.field(c).value.get("role") == "input"]
        cells = sum(column.rows for column in inputs)
        missing = 1 - sum(column.filled for column in inputs) / cells if cells else 1.0
        tables["records"] = TablePrint(len(inputs), round(missing, 3))
    return Fingerprint(len(survey.subjects), events, this_machine(), prints, tables)
