"""The rules of docs/red-team.md, each from measured strengths to findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medmm.cohort.clocks import UnreadClock
from medmm.cohort.draft.guess import CONSEQUENCE
from medmm.evaluation.resampling import Estimate
from medmm.evaluation.screening import pure_level
from medmm.redteam.columns import Column, Family
from medmm.redteam.copies import Pair
from medmm.redteam.findings import ADVICE, GROUP_NAMES, MEANS, Finding, Grade
from medmm.redteam.strength import Question, Strength, gain, strength

ACCEPTABLE, OUTSTANDING = 0.7, 0.9
"""AUROCs from which discrimination is called acceptable, and outstanding (Hosmer et al. 2013, ch. 5.2.4)."""
CHANCE = 0.5
PURE_CHANCE = 0.001
"""A level is pure when luck would make one of all levels so less often than this."""
PURE_SHARE = 0.1
"""A pure level of this share of the patients decides enough of the outcome to call it a leak."""
NOT_PURE = 5
"""A level of fewer patients is not named."""
ACQUISITION: tuple[Family, ...] = ("header", "scanner", "size", "count", "site", "date", "order", "file")
"""What should not know the outcome at all: anything above chance is a finding."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A column, or a family tried together, with its strength and the bound that holds for all of them."""

    columns: tuple[Column, ...]
    family: Family
    what: str
    strength: Strength
    bound: float

    def finding(self, grade: Grade, rule: str, means: str, advice: str) -> Finding:
        """Return a finding about it."""
        found = self.strength
        return Finding(grade, rule, self.what, means, advice, found.auroc, self.bound, found.patients)


def field_rule(question: Question, measured: Sequence[Measured], outcome: str) -> Iterator[Finding]:
    """A single input that outranks all ordinary ones together."""
    fields = [m for m in measured if m.family == "field" and len(m.columns) == 1]
    ordinary = [m.columns[0] for m in fields if not _striking(m)]
    for found in fields:
        sounds = CONSEQUENCE.search(found.what.partition(".")[2])
        if _striking(found):
            more = gain(question, found.columns[0], ordinary)
            yield from _striking_field(found, more, outcome)
        elif sounds:
            above = found.bound > CHANCE
            yield found.finding(
                "leak" if above else "look",
                "name",
                "its name sounds like something known afterwards"
                + (f", and it ranks {outcome} above chance." if above else "."),
                "Say when it is known; if after the prediction time, make it `never`.",
            )


def _striking(found: Measured) -> bool:
    return found.bound > CHANCE and found.strength.auroc.value >= ACCEPTABLE


def _striking_field(found: Measured, more: Estimate, outcome: str) -> Iterator[Finding]:
    exceeds = more.lower > 0
    grade: Grade = "leak" if CONSEQUENCE.search(found.what.partition(".")[2]) else "look"
    sounds = " and its name sounds like something known afterwards" if grade == "leak" else ""
    beside = f"by {more} more than all ordinary fields together"
    if found.bound > OUTSTANDING:
        grade, means = "leak", f"alone it nearly decides {outcome}{sounds}."
    elif exceeds and found.strength.auroc.lower > ACCEPTABLE:
        grade, means = "leak", f"alone it ranks {outcome} {beside}{sounds}."
    elif exceeds:
        means = f"alone it ranks {outcome} {beside}{sounds}; one true predictor may do that too."
    else:
        means = f"alone it ranks {outcome} as well as all other fields together{sounds}."
    advice = "Ask when it is recorded; if that may be after the prediction time, make it `never`."
    yield found.finding(grade, "field", means, advice)


def pure_rule(question: Question, columns: Sequence[Column], outcome: str) -> Iterator[Finding]:
    """A level, or the gap, of an input in which everybody has the same outcome."""
    labels, total = question.labels, len(question.labels)
    levels = [
        (column, name, members)
        for column in columns
        for name, members in _levels(column)
        if len(members) >= NOT_PURE and len(members) < total
    ]
    for column, name, members in levels:
        share = labels[members].mean()
        if share not in (0, 1):
            continue
        chance = pure_level(len(members), total, int(labels.sum()), all_events=bool(share)) * len(levels)
        if chance < PURE_CHANCE:
            everybody = "everybody" if share else "nobody"
            yield Finding(
                "leak" if len(members) >= PURE_SHARE * total else "look",
                "pure",
                f"{column.name} {name}",
                f"of these {len(members)} patients {everybody} has {outcome}; by luck that happens less than"
                f" once in {1 / max(chance, 1e-9):.0f} cohorts, so it is part of how the outcome was found.",
                "Ask whether the outcome was only looked for in the others; if so, it cannot be an input.",
                bound=1.0 - chance,
                patients=len(members),
            )


def _levels(column: Column) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    missing = np.array([place for place, cell in enumerate(column.cells) if cell is None], dtype=np.int64)
    yield "missing", missing
    if column.numbers is None:
        codes, levels = column.words
        for code, level in enumerate(levels[:200]):
            yield f"= {level[:40]!r}", np.flatnonzero(codes == code)


def missing_rule(measured: Sequence[Measured]) -> Iterator[Finding]:
    """What is missing, and how much."""
    for found in measured:
        if found.family == "missing" and found.bound > CHANCE:
            grade: Grade = "leak" if found.bound > ACCEPTABLE else "look"
            yield found.finding(grade, "missing", MEANS["missing"], ADVICE["missing"])


def acquisition_rule(measured: Sequence[Measured]) -> Iterator[Finding]:
    """Headers, scanner, size, counts, site, dates, ids, files, pixels: each alone, and together."""
    for found in measured:
        if found.bound > CHANCE and found.family in (*ACQUISITION, "pixels"):
            grade: Grade = "look" if found.family == "pixels" else "shortcut"
            yield found.finding(grade, found.family, MEANS[found.family], ADVICE[found.family])


def withheld_rule(question: Question, measured: Sequence[Measured]) -> Iterator[Finding]:
    """A column that no model sees, but that the outcome and perhaps the headers know."""
    seen = [
        c
        for m in measured
        if m.family in ("header", "scanner", "size") and len(m.columns) == 1
        for c in m.columns
    ]
    for found in measured:
        if found.family != "withheld" or not _striking(found):
            continue
        told = _told_by(question, found.columns[0], seen)
        means = "it is kept from the tables and ranks the outcome well."
        if told is not None and told.auroc.lower > ACCEPTABLE:
            means = (
                f"it is kept from the tables and ranks the outcome well, and the headers tell it (AUROC"
                f" {told.auroc}), so an image carries it all the same."
            )
        advice = "Report performance within its levels, and compare the image model with this figure."
        yield found.finding("shortcut" if "headers" in means else "look", "withheld", means, advice)


def _told_by(question: Question, column: Column, seen: Sequence[Column]) -> Strength | None:
    """Return how well the headers tell the commonest level of a column, or its upper half."""
    if not seen:
        return None
    if column.numbers is not None:
        middle = float(np.nanmedian(column.numbers))
        labels = np.nan_to_num(column.numbers, nan=middle) > middle
    else:
        labels = column.words[0] == 0
    blocks: dict[str, list[Column]] = {}
    for header in seen:
        blocks.setdefault(header.name.partition(": ")[0], []).append(header)
    asked = Question(np.asarray(labels, dtype=bool), question.keys, question.folds)
    told = [found for headers in blocks.values() if (found := strength(asked, headers)) is not None]
    return max(told, key=lambda found: found.auroc.lower, default=None)


def clock_rule(clocks: Sequence[UnreadClock]) -> Iterator[Finding]:
    """A clock that no rule of time reads."""
    for clock in clocks:
        if clock.later:
            yield Finding(
                "leak",
                "time",
                f"{clock.table}: {clock.column}",
                f"no time is mapped for this table, yet this column is one, and {clock.later} of {clock.read}"
                " rows lie after the prediction time and are used.",
                "Map it under `columns:` as `day` or `time`.",
                patients=clock.read,
            )


def day_rule(used: int, of: int, *, day: int) -> Iterator[Finding]:
    """Values of after the day from which the source counts, where the prediction time is a later day."""
    if day > 0 and used:
        yield Finding(
            "leak",
            "time",
            f"prediction_time day {day}",
            f"{used} of {of} used results were collected after day 0, the day from which the source counts.",
            "Set `prediction_time: {day: 0}`, unless day 0 is long before the decision.",
            patients=of,
        )


def date_rule(column: Column, later: int, of: int) -> Iterator[Finding]:
    """A column of dates that is declared as something else."""
    if later:
        used = column.family == "field"
        yield Finding(
            "leak" if used else "look",
            "time",
            column.name,
            f"it holds dates, of which {later} of {of} lie after the prediction time"
            + (", and is not declared as a date." if used else "; whoever has one is known afterwards only."),
            "Declare it as `kind: date`, or `never`." if used else "Keep it `never`.",
            patients=of,
        )


def copies_rule(
    pairs: Sequence[Pair], names: Sequence[str], parts: Sequence[tuple[str, int]]
) -> Iterator[Finding]:
    """Copies of images and persons, those that cross a split or fold first."""
    for kind in ("equal image", "similar image", "similar person"):
        for crossing in (True, False):
            found = [p for p in pairs if p.kind == kind and (parts[p.first] != parts[p.second]) == crossing]
            if found:
                where = "in different splits or folds" if crossing else "in the same fold"
                yield Finding(
                    "leak" if crossing else "look",
                    "copies",
                    f"{kind}, {where}",
                    f"{len(found)} pairs of patients; whoever is trained on and tested on is known by heart.",
                    "Are they one? Merge their ids in a crosswalk, or group them in `splits`.",
                    patients=len({place for pair in found for place in (pair.first, pair.second)}),
                    pairs=tuple((names[pair.first], names[pair.second]) for pair in found[:20]),
                )


def shuffle_rule(found: Estimate | None) -> Iterator[Finding]:
    """The cohort's own folds on shuffled labels."""
    if found is not None and found.value - 1.7 * (found.value - found.lower) > CHANCE:  # 3.3 standard errors
        yield Finding(
            "leak",
            "shuffle",
            "shuffled labels",
            "the folds predict even outcomes dealt out at random, so they share patients.",
            "Look at the copies above, and at what is fitted before the folds are made.",
            auroc=found,
            bound=found.lower,
        )


def group_name(family: Family) -> str:
    """Return what a family tried together is called."""
    return f"{GROUP_NAMES[family]}, together"
