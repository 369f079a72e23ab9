"""The red team's way through a cohort: collect, measure, judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medmm.arrays import Bools, Ints
from medmm.cohort.clocks import unread_clocks
from medmm.cohort.link import Cohort, link
from medmm.cohort.moments import iso_moment
from medmm.cohort.outcomes import halved
from medmm.cohort.site import index_cache, site_key
from medmm.cohort.spec import CohortSpec
from medmm.cohort.split import Splits, divide
from medmm.columns import Status
from medmm.errors import DataError
from medmm.evaluation.resampling import Estimate
from medmm.redteam import rules
from medmm.redteam.candidates import chosen, columns, with_withheld
from medmm.redteam.columns import Column, Family
from medmm.redteam.copies import Pair, equal_images, people, similar_images, similar_persons
from medmm.redteam.findings import GROUP_NAMES, Finding, ranked
from medmm.redteam.images import thumbnails
from medmm.redteam.rules import Measured, group_name
from medmm.redteam.shuffle import shuffled
from medmm.redteam.strength import MIN_CLASS, Question, Strength, strength

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RedTeam:
    """What the red team found about one outcome.

    Attributes:
        cohort: its name.
        outcome: the outcome that was predicted.
        patients: labelled patients.
        events: of them with the outcome; of an outcome that is not binary, with what it was asked as
            (:func:`~medmm.cohort.outcomes.halved`), which ``notes`` says.
        looked_at: single columns and groups that were tried.
        findings: worst first.
        groups: per group of columns, how well all of it together predicts.
        fields: the same of all inputs together, for comparison; None where there is none.
        shuffled: the folds' AUROC on shuffled labels; None where it could not be tried.
        notes: what could not be looked at.
    """

    cohort: str
    outcome: str
    patients: int
    events: int
    looked_at: int
    findings: tuple[Finding, ...]
    groups: dict[str, Strength]
    fields: Strength | None
    shuffled: Estimate | None
    notes: tuple[str, ...]


def open_for_attack(spec: CohortSpec, root: Path) -> Cohort:
    """Link a cohort for :func:`attack`: with its outcomes and with the columns that no model sees.

    A withheld column that the table does not have after all is left out, with all others.

    Raises:
        DataError: if a table is missing, malformed or contradicts itself.
    """
    try:
        return link(with_withheld(spec), root, key=site_key(), index_cache=index_cache())
    except DataError:
        return link(spec, root, key=site_key(), index_cache=index_cache())


def attack(
    cohort: Cohort,
    root: Path,
    *,
    outcome: str | None = None,
    splits: Splits | None = None,
    images: bool = True,
    progress: Progress | None = None,
) -> list[RedTeam]:
    """Try to predict each outcome of a cohort from what should not know it.

    Args:
        cohort: from :func:`open_for_attack`.
        root: folder of its data.
        outcome: only this one.
        splits: who is tested on what; drawn as the specification says when left out.
        images: whether pixels are read too, for copies and for their mean and spread.
        progress: called with (stage, done, total).

    Raises:
        DataError: if a table cannot be read.
    """
    tried, notes = columns(cohort, progress=progress)
    pairs = similar_persons([c for c in tried if c.family in ("field", "withheld", "person", "site")])
    if with_withheld(cohort.spec) != cohort.spec:
        notes.append("columns that are `never` were not tried: not all of them could be read with the others")
    if images:
        alike, pixels = _images(cohort, progress)
        pairs, tried = pairs + alike, tried + pixels
    else:
        notes.append("pixels were not read; `medmm cohort check --red-team` looks for copies among images")
    splits = splits or _drawn(cohort, notes)
    clocks = unread_clocks(cohort.spec, root)
    found = []
    for name in [outcome] if outcome else list(cohort.spec.outcomes):
        told = _attack_one(cohort, name, tried, splits, pairs, progress)
        more = [
            *rules.clock_rule(clocks),
            *_times(cohort),
            *_dates(cohort, tried),
            *_pairs(cohort, pairs, splits),
        ]
        found.append(
            replace(told, findings=tuple(ranked([*told.findings, *more])), notes=(*notes, *told.notes))
        )
    return found


def _drawn(cohort: Cohort, notes: list[str]) -> Splits | None:
    """Return the division that the specification draws; a note where it cannot be."""
    try:
        return divide(cohort)
    except DataError as error:
        notes.append(f"no splits to look at: {error}")
        return None


def _attack_one(
    cohort: Cohort,
    outcome: str,
    tried: Sequence[Column],
    splits: Splits | None,
    pairs: Sequence[Pair],
    progress: Progress | None,
) -> RedTeam:
    known = np.array([patient.targets.get(outcome, np.nan) for patient in cohort.patients])
    answers, asked = halved(cohort.spec.outcomes[outcome], known)
    labelled = np.isfinite(answers)
    patients = [patient for patient, has in zip(cohort.patients, labelled, strict=True) if has]
    labels = answers[labelled] == 1
    events = int(labels.sum())
    notes = (f"{outcome} was asked as: {asked}",) if asked else ()
    if min(events, len(labels) - events) < MIN_CLASS:
        note = (
            f"{events} of {len(labels)} have {outcome}: fewer than {MIN_CLASS} of either, so nothing is tried"
        )
        return RedTeam(cohort.spec.name, outcome, len(labels), events, 0, (), {}, None, None, (*notes, note))
    places = [splits.of[patient.subject_id] if splits else ("", 0) for patient in patients]
    numbers = {place: number for number, place in enumerate(sorted(set(places)))}
    folds = np.array([numbers[place] for place in places], dtype=np.int64)
    question = Question(labels, [patient.subject_id for patient in patients], folds)
    of_labelled = [_restricted(column, labelled) for column in tried]
    measured = _measured(question, of_labelled, progress)
    inputs = [column for column in of_labelled if column.family == "field"]
    luck = shuffled(question, inputs, _same(pairs, labelled)) if len(numbers) > 1 and inputs else None
    found = [
        *rules.field_rule(question, measured, outcome),
        *rules.pure_rule(question, inputs, outcome),
        *rules.missing_rule(measured),
        *rules.acquisition_rule(measured),
        *rules.withheld_rule(question, measured),
        *rules.shuffle_rule(luck),
    ]
    groups = {m.what: m.strength for m in measured if len(m.columns) > 1}
    together = strength(question, inputs) if inputs else None
    return RedTeam(
        cohort.spec.name,
        outcome,
        len(labels),
        events,
        len(measured),
        tuple(found),
        groups,
        together,
        luck,
        notes,
    )


def _same(pairs: Sequence[Pair], labelled: Bools) -> Ints:
    """Return, per labelled patient, the first labelled one who is taken for the same person."""
    first = people(pairs, len(labelled))[labelled]
    place: dict[int, int] = {}
    return np.array([place.setdefault(int(who), row) for row, who in enumerate(first)], dtype=np.int64)


def _restricted(column: Column, kept: Bools) -> Column:
    """Return a column of some patients only."""
    cells = [cell for cell, keep in zip(column.cells, kept, strict=True) if keep]
    return Column(
        column.name, column.family, cells, None if column.eligible is None else column.eligible[kept]
    )


def _measured(question: Question, tried: Sequence[Column], progress: Progress | None) -> list[Measured]:
    """Measure each column once, and each family together; columns that tell the same are one."""
    single: dict[tuple[Family, bytes], list[Column]] = defaultdict(list)
    for column in tried:
        if column.family != "person" and column.distinct > 1:
            single[column.family, column.division].append(column)
    jobs: list[tuple[tuple[Column, ...], Family, str]] = []
    for (family, _), same in single.items():
        alias = f" (the same as {', '.join(column.name for column in same[1:4])})" if len(same) > 1 else ""
        jobs.append(((same[0],), family, same[0].name + alias))
    together: dict[tuple[Family, str], list[Column]] = defaultdict(list)
    for (family, _), same in single.items():
        block = same[0].name.partition(": ")[0] if same[0].eligible is not None else ""
        together[family, block].append(same[0])
    for (family, block), several in together.items():
        if family in GROUP_NAMES and len(several) > 1:
            jobs.append((tuple(several), family, f"{block}: " * bool(block) + group_name(family)))
    found = []
    for done, (members, family, what) in enumerate(jobs):
        strong = strength(question, members)
        if strong is not None:
            found.append((members, family, what, strong))
        if progress is not None:
            progress("predicting", done + 1, len(jobs))
    return [Measured(*item, item[3].at_least(len(found))) for item in found]


def _images(cohort: Cohort, progress: Progress | None) -> tuple[list[Pair], list[Column]]:
    """Return pairs of images that are copies, and the plainest numbers of the pixels as columns."""
    pairs, pixels = list[Pair](), list[Column]()
    for block in cohort.spec.images:
        series = [source.files if (source := chosen(p, block)) else None for p in cohort.patients]
        images = thumbnails(
            series, progress=None if progress is None else partial(progress, "comparing images")
        )
        pairs += [*equal_images(images), *similar_images(images)]
        has = np.array([image is not None for image in images], dtype=bool)
        for name in next((image.numbers for image in images if image is not None), {}):
            cells = [None if image is None else image.numbers[name] for image in images]
            pixels.append(Column(f"{block}: {name}", "pixels", cells, has))
    return pairs, pixels


def _pairs(cohort: Cohort, pairs: Sequence[Pair], splits: Splits | None) -> list[Finding]:
    names = [patient.pseudonym for patient in cohort.patients]
    parts = [splits.of[patient.subject_id] if splits else ("", 0) for patient in cohort.patients]
    return list(rules.copies_rule(pairs, names, parts))


def _times(cohort: Cohort) -> list[Finding]:
    """Count the values that were collected after the source's day 0."""
    day = cohort.spec.prediction_time.day or 0
    used = beyond = 0
    for block in cohort.declarations:
        for patient in cohort.patients:
            source = patient.sources[block]
            for value in source.values() if isinstance(source, Mapping) else ():
                if value.status is Status.KNOWN and value.offset_days is not None and block != "records":
                    used += 1
                    beyond += value.offset_days + day > 0
    return list(rules.day_rule(beyond, used, day=day))


def _dates(cohort: Cohort, tried: Sequence[Column]) -> list[Finding]:
    """Look for dates that are declared as something else, so that no rule of time reads them."""
    if cohort.spec.prediction_time.day is not None:
        return []
    days = [cohort.days.get(patient.subject_id) for patient in cohort.patients]
    found: list[Finding] = []
    for column in tried:
        if column.family not in ("field", "withheld") or column.numbers is not None:
            continue
        pairs = [
            (moment.day, day)
            for cell, day in zip(column.cells, days, strict=True)
            if isinstance(cell, str) and day is not None and (moment := iso_moment(cell)) is not None
        ]
        if 2 * len(pairs) > sum(cell is not None for cell in column.cells):
            later = sum(moment > day for moment, day in pairs)
            found += rules.date_rule(column, later, len(pairs))
    return found
