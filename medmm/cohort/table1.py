"""Table 1: who is in the cohort, by split and by outcome, with standardised differences; nobody is in it.

Standardised differences do not depend on how many patients there are: Austin 2009, Statistics in Medicine
28:3083-3107, for numbers; Yang & Dalton 2012, SAS Global Forum 335, for categories. Beyond 0.1 two groups
differ. Small counts are hidden by :mod:`medmm.cohort.disclosure`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medmm.arrays import Bools, Float64, Ints
from medmm.cohort.disclosure import SMALL, hidden, lines_of
from medmm.cohort.link import Cohort
from medmm.cohort.outcomes import grouped, groups_of
from medmm.columns import ResultSpec, Status
from medmm.sample import SeriesSource

MOST_LEVELS = 12
"""Levels of a category that are told apart; the others, and those of fewer than five patients, are one."""
OTHERS = "all others"
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Group:
    """One column of the table.

    Attributes:
        name: "everybody", "training", "ill: no", …
        grouping: "", "split" or the outcome that divides everybody.
        patients: how many; None where it must not be told.
    """

    name: str
    grouping: str
    patients: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        field: "records.age".
        label: what a reader calls the field, in English.
        label_zh: in Chinese, or "".
        level: the category, "missing", or "" for the summary of a number.
        unit: UCUM, or "".
        counts: per group, how many patients; None where hidden.
        shares: per group, of its patients; None where hidden.
        summaries: per group of a number, (mean, SD, median, lower and upper quartile); None where hidden.
        differences: per grouping of two groups, the standardised difference of the whole field, on its first
            line; of the gap, on the line "missing".
    """

    field: str
    label: str
    label_zh: str
    level: str
    unit: str
    counts: tuple[int | None, ...]
    shares: tuple[float | None, ...]
    summaries: tuple[tuple[float, float, float, float, float] | None, ...]
    differences: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Table1:
    """The table, the inclusion flow, and who lacks what.

    Attributes:
        cohort: its name.
        flow: top to bottom: (what, how many, who left and why).
        groups: the columns; the first is everybody.
        rows: the lines.
        fields: labels of the columns of ``patterns``.
        patterns: (patients, which fields they lack), most frequent first; those of fewer than five are one,
            the last, whose fields are ().
    """

    cohort: str
    flow: tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...]
    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    fields: tuple[str, ...]
    patterns: tuple[tuple[int, tuple[bool, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    label: str
    label_zh: str
    unit: str
    cells: Sequence[str | float | None]


def table1(cohort: Cohort) -> Table1:
    """Describe a cohort whose patients have their split.

    Args:
        cohort: from :func:`medmm.cohort.split.assign`, or undivided.
    """
    members = _members(cohort)
    names = [(name, grouping) for name, grouping, _ in members]
    inside = np.array([who for _, _, who in members], dtype=bool)  # [group, patient]
    groupings = _groupings([grouping for _, grouping in names])
    sizes = inside.sum(axis=1)[None]
    across = [[(0, 0), *((0, column) for column in group)] for group in groupings.values()]
    secret = hidden(sizes, across)[0]
    groups = tuple(
        Group(name, grouping, None if secret[place] else int(sizes[0, place]))
        for place, (name, grouping) in enumerate(names)
    )
    fields = _fields(cohort)
    rows = [row for field in fields for row in _rows(field, inside, groupings, secret)]
    return Table1(
        cohort.spec.name,
        _flow(cohort),
        groups,
        tuple(rows),
        tuple(field.label for field in fields),
        _patterns(fields, len(cohort.patients)),
    )


def difference_of_numbers(first: Float64, second: Float64) -> float:
    """Return the standardised difference of two samples; NaN where neither varies (Austin 2009)."""
    if min(len(first), len(second)) < 2:
        return math.nan
    spread = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return float((first.mean() - second.mean()) / spread) if spread > 0 else math.nan


def difference_of_categories(first: Float64, second: Float64) -> float:
    """Return the standardised difference of two rows of counts per level (Yang & Dalton 2012).

    NaN where a group is empty, or nobody differs from anybody. Infinite where some levels tell the
    group: the spread in that direction is 0, and its pseudoinverse alone would call the groups alike.
    """
    if not first.sum() or not second.sum():
        return math.nan
    p, q = (counts / counts.sum() for counts in (first, second))
    used = (p + q) > 0
    p, q = p[used][1:], q[used][1:]
    if not len(p):
        return math.nan
    spread = (np.diag(p) - np.outer(p, p) + np.diag(q) - np.outer(q, q)) / 2
    away = p - q
    inverse = np.linalg.pinv(spread, rcond=1e-12, hermitian=True)
    if np.abs(spread @ inverse @ away - away).max() > 1e-9:
        return math.inf
    distance = float(away @ inverse @ away)
    return math.sqrt(max(distance, 0.0))


def _members(cohort: Cohort) -> list[tuple[str, str, list[bool]]]:
    """Return the columns: name, grouping, who is in it."""
    people = cohort.patients
    found = [("everybody", "", [True] * len(people))]
    for split, name in (("train", "training"), ("held_out", "held out")):
        if any(p.split == "held_out" for p in people):
            found.append((name, "split", [p.split == split for p in people]))
    for outcome, spec in cohort.spec.outcomes.items():
        for told, value in groups_of(spec):
            who = [grouped(spec, p.targets.get(outcome)) == value for p in people]
            if any(who):
                found.append((f"{outcome}: {told}", outcome, who))
    return found


def _groupings(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, grouping in enumerate(names):
        if grouping:
            found.setdefault(grouping, []).append(place)
    return found


def _fields(cohort: Cohort) -> list[_Field]:
    """Return the fields, results, subgroups and image blocks, one cell per patient."""
    found = []
    for name in cohort.spec.subgroups:
        field = cohort.spec.records.fields[name] if cohort.spec.records else None
        words = [p.subgroups.get(name) or None for p in cohort.patients]
        label_zh = (field and field.label_zh) or ""
        found.append(_Field(f"subgroup.{name}", (field and field.label) or name, label_zh, "", words))
    for block, declared in cohort.declarations.items():
        if block in cohort.spec.images:
            present = ["yes" if isinstance(p.sources[block], SeriesSource) else None for p in cohort.patients]
            found.append(_Field(block, cohort.spec.images[block].label or block, "", "", present))
            continue
        rows = [source for p in cohort.patients if isinstance(source := p.sources[block], Mapping)]
        for key in rows[0] if rows else ():
            name, _, summary = (key, "", "") if key in declared else key.partition(":")
            spec = declared.get(name) if isinstance(declared, Mapping) else None
            values = [p.sources[block][key] for p in cohort.patients]  # type: ignore[index]
            unit = (spec and spec.unit) or ""
            if isinstance(spec, ResultSpec):
                asked = next(s for s in spec.summaries if s == summary or not summary)
                summary = (summary or ("" if asked == "last" else asked)).replace("_", " ")
                unit = spec.unit_of(asked) or ""
            label = f"{(spec and spec.label) or name}{f', {summary}' if summary else ''}"
            cells = [v.value if v.status is Status.KNOWN else None for v in values]
            found.append(_Field(f"{block}.{key}", label, (spec and spec.label_zh) or "", unit, cells))
    return found


def _rows(field: _Field, inside: Bools, groupings: Mapping[str, Sequence[int]], secret: Bools) -> list[Row]:
    number = any(isinstance(cell, float) for cell in field.cells)
    levels = ["known"] if number else _levels(field.cells)
    kept = set(levels)
    told = [
        MISSING if c is None else "known" if number else str(c) if str(c) in kept else OTHERS
        for c in field.cells
    ]
    levels = [*levels, *([OTHERS] if OTHERS in told and OTHERS not in kept else []), MISSING]
    marks = np.array([[word == level for word in told] for level in levels], dtype=bool)
    counts: Ints = marks.astype(np.int64) @ inside.T.astype(np.int64)  # [level, group]
    sizes = inside.sum(axis=1)
    hide = hidden(counts, lines_of(len(levels), list(groupings.values()))) | secret[None]
    rows = []
    for place, level in enumerate(levels):
        shown = tuple(None if hide[place, g] else int(counts[place, g]) for g in range(len(sizes)))
        shares = tuple(None if n is None else n / max(1, int(sizes[g])) for g, n in enumerate(shown))
        if level == MISSING:
            differences = _differences(
                groupings, lambda g: np.array([counts[-1, g], sizes[g] - counts[-1, g]]), hide
            )
        elif place == 0 and level != OTHERS:
            differences = _field_differences(field, inside, groupings, counts, hide, number=number)
        else:
            differences = {}
        summaries = _summaries(field, inside, hide) if number and level == "known" else (None,) * len(sizes)
        name = "" if number and level == "known" else level
        rows.append(
            Row(
                field.name,
                field.label,
                field.label_zh,
                name,
                field.unit,
                shown,
                shares,
                summaries,
                differences,
            )
        )
    return rows


def _levels(cells: Sequence[str | float | None]) -> list[str]:
    counts = Counter(str(cell) for cell in cells if cell is not None)
    told = [level for level, count in counts.items() if count >= SMALL]
    return sorted(told, key=lambda level: (-counts[level], level))[:MOST_LEVELS]


def _differences(groupings: Mapping[str, Sequence[int]], counted, hide: Bools) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Return the difference of two groups by counts per level, where no cell of theirs is hidden."""
    found = {}
    for grouping, group in groupings.items():
        two = list(group)[:2]
        if len(two) == 2 and not hide[:, two].any():
            value = difference_of_categories(*(np.asarray(counted(g), np.float64) for g in two))
            if not math.isnan(value):
                found[grouping] = value
    return found


def _field_differences(
    field: _Field,
    inside: Bools,
    groupings: Mapping[str, Sequence[int]],
    counts: Ints,
    hide: Bools,
    *,
    number: bool,
) -> dict[str, float]:
    if not number:
        return _differences(groupings, lambda g: counts[:-1, g], hide)
    values = np.array([cell if isinstance(cell, float) else math.nan for cell in field.cells])
    found = {}
    for grouping, group in groupings.items():
        two = [values[inside[g] & np.isfinite(values)] for g in list(group)[:2]]
        if len(two) == 2 and not hide[0, list(group)[:2]].any() and min(map(len, two)) >= SMALL:
            value = difference_of_numbers(*two)
            if math.isfinite(value):
                found[grouping] = value
    return found


def _summaries(
    field: _Field, inside: Bools, hide: Bools
) -> tuple[tuple[float, float, float, float, float] | None, ...]:
    values = np.array([cell if isinstance(cell, float) else math.nan for cell in field.cells])
    found: list[tuple[float, float, float, float, float] | None] = []
    for group in range(len(inside)):
        known = values[inside[group] & np.isfinite(values)]
        if hide[0, group] or len(known) < SMALL:
            found.append(None)
            continue
        lower, middle, upper = np.quantile(known, (0.25, 0.5, 0.75))
        found.append(
            (float(known.mean()), float(known.std(ddof=1)), float(middle), float(lower), float(upper))
        )
    return tuple(found)


def _flow(cohort: Cohort) -> tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...]:
    """Return the inclusion flow; reasons that befell fewer than five are one."""
    subjects = cohort.flow.subjects
    left = {reason: count for reason, count in subjects.parts.items() if reason not in ("kept", "excluded")}
    people = len(cohort.patients)
    held = sum(patient.split == "held_out" for patient in cohort.patients)
    steps = [
        ("subjects in any source", subjects.total, _pooled(left)),
        ("in the cohort", people, (("held out", held),) if held else ()),
    ]
    return (*steps, *([("training", people - held, ())] if held else []))


def _pooled(reasons: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    ordered = sorted(reasons.items(), key=lambda item: (item[1], item[0]))
    small = [item for item in ordered if item[1] < SMALL]
    rest = ordered[len(small) :]
    if len(small) < 2 and not (small and rest):
        return tuple((name.replace("_", " "), count) for name, count in reversed(ordered))
    while rest and sum(count for _, count in small) < SMALL:
        small.append(rest.pop(0))
    pooled = ("other reasons", sum(count for _, count in small))
    return (*((name.replace("_", " "), count) for name, count in reversed(rest)), pooled)


def _patterns(fields: Sequence[_Field], patients: int) -> tuple[tuple[int, tuple[bool, ...]], ...]:
    lacking = Counter(tuple(field.cells[place] is None for field in fields) for place in range(patients))
    ordered = sorted(lacking.items(), key=lambda item: (-item[1], item[0]))
    frequent = [(count, pattern) for pattern, count in ordered if count >= SMALL]
    rest = patients - sum(count for count, _ in frequent)
    while 0 < rest < SMALL and frequent:
        rest += frequent.pop()[0]
    return (*frequent, *([(rest, ())] if rest else []))
