"""The draft of a cohort as text: one line per decision, questions marked `# ?`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medmm.catalogue import Entry, by_code, by_name
from medmm.cohort.draft import guess
from medmm.cohort.draft.guess import Line, Parts
from medmm.cohort.draft.images import Block, image_block
from medmm.cohort.draft.lines import Lines, flow, line_of
from medmm.cohort.draft.profile import Column, Sheet, Survey, words_of
from medmm.cohort.draft.spread import skewed_columns, skewed_results
from medmm.errors import DataError
from medmm.units import factor, is_unit

SPELT: Mapping[str, str] = {
    "G/L": "10*9/L",
    "Gpt/L": "10*9/L",
    "T/L": "10*12/L",
    "Tpt/L": "10*12/L",
    "K/uL": "10*3/uL",
    "Tsd/uL": "10*3/uL",
    "M/uL": "10*6/uL",
    "IU/L": "[iU]/L",
    "UI/L": "[iU]/L",
    "mIU/L": "m[iU]/L",
    "mUI/L": "m[iU]/L",
}
"""Spellings that are no UCUM, and what they usually mean; a person says whether they do."""
LOG = {"scale": "log"}
"""What is drafted for numbers that range over magnitudes."""


def cohort_text(survey: Survey, parts: Parts, images: Sequence[Block], name: str) -> str:
    """Return the drafted cohort.yaml.

    Args:
        images: of :func:`~medmm.cohort.draft.images.image_blocks`.
    """
    time = guess.clock(parts.records, survey)
    lines = [
        "schema_version: 1",
        f"name: {name}",
        "root: null # --root DIR or MEDMM_ROOT",
        "",
        *_subjects(survey, parts),
        *_prediction_time(parts, time),
        "",
        *_outcomes(survey, parts),
        *_records(survey, parts, time[0] if time else None),
        *_biomarkers(survey, parts, dated=time is not None),
        *_notes(parts, dated=time is not None),
        *_images(images, dated=time is not None),
        *_dates(parts, time[0] if time else None),
        *_decimals(parts),
        *_never(survey, parts),
        *_splits(survey, parts, images),
    ]
    return "\n".join(lines) + "\n"


def _drafted(depth: int, key: str, line: Line) -> str:
    return line_of(depth, key, line.value, line.question)


def _subjects(survey: Survey, parts: Parts) -> Lines:
    table = parts.records.name if parts.records else (survey.sheets[0].name if survey.sheets else "")
    question = (
        ""
        if parts.records and survey.id
        else "which table has one row per subject, and which column names it?"
    )
    yield line_of(0, "subjects", {"table": table, "id": survey.id or "id"}, question)


def _prediction_time(parts: Parts, time: tuple[str, int, int] | None) -> Lines:
    if time is None or parts.records is None:
        question = _unread(parts.records) or "what happens on day 0, up to which everything is known?"
        yield line_of(0, "prediction_time", {"day": 0}, question)
        yield line_of(
            0, "same_day", {"index_study": "not_known", "results": "not_known"}, "is day 0 itself known?"
        )
        return
    name, equal, compared = time
    column = parts.records.columns[name]
    resolution = "second" if column.times == column.filled else "day"
    value = {"table": parts.records.name, "column": name, "resolution": resolution}
    plain = compared > 0 and equal >= 0.95 * compared
    yield line_of(0, "prediction_time", value, "" if plain else "is everything to be used known by then?")
    if plain:
        yield f"# {name} is the StudyDate in {equal} of {compared}: the study of that day defines the moment"
    known = "known" if plain else "not_known"
    yield line_of(0, "same_day", {"index_study": known, "results": "not_known"})


def _unread(sheet: Sheet | None) -> str:
    """Ask for dates of another form to be written anew; "" where a table has none."""
    name = guess.unread_date(sheet)
    return f"{flow(name)} has dates that are not read; {guess.REWRITE}" if name else ""


def _outcomes(survey: Survey, parts: Parts) -> Lines:
    found = [(sheet, column) for sheet in parts.labels for column in guess.outcomes(sheet, survey).values()]
    if not found:
        question = "which column of which table is the outcome, and which word is positive?"
        yield line_of(
            0, "outcomes", {}, f"{question}{guess.perhaps(parts, survey)} (other kinds: docs/outcomes.md)"
        )
        yield ""
        return
    yield "outcomes:"
    for sheet, column in found:
        kind = guess.outcome_of(column)
        value = {"table": sheet.name} | kind | _column_key(column.name)
        question = "is this what you predict?"
        if kind.get("kind") == "multiclass":
            question += " if its classes have an order, `ordinal`, from low to high"
        yield line_of(1, guess.slug(column.name), value, question)
    yield ""


def _column_key(name: str) -> dict[str, str]:
    return {} if guess.slug(name) == name else {"column": name}


def _records(survey: Survey, parts: Parts, time: str | None) -> Lines:
    if parts.records is None:
        return
    yield "records:"
    yield line_of(1, "table", parts.records.name)
    yield "  fields:"
    columns = parts.records.columns.items()
    lines = {name: guess.field(column) for name, column in columns if name not in (survey.id, time)}
    numbers = [name for name, line in lines.items() if line.value.get("kind") == "number"]
    skewed = skewed_columns(survey.root, parts.records, numbers)
    for name, line in lines.items():
        yield _drafted(2, name, replace(line, value=line.value | LOG) if name in skewed else line)
    yield ""


def _biomarkers(survey: Survey, parts: Parts, *, dated: bool) -> Lines:
    if parts.results is None:
        return
    sheet, columns = parts.results
    unused = "day" if dated else "time"
    columns = {
        part: name for part, name in columns.items() if part != unused and (dated or part != "available_at")
    }
    yield "biomarkers:"
    yield line_of(1, "table", sheet.name)
    yield line_of(1, "columns", columns)
    when = sheet.columns.get(columns.get("time") or columns.get("day") or "")
    missing = sheet.rows - (when.filled if when else 0)
    if missing:
        question = _unread(sheet) or (
            f"{missing} of {sheet.rows} results have no date; if known in time, {{assume_known: why}}"
        )
        yield line_of(1, "undated", "refuse", question)
    found = _results(survey, sheet, columns)
    spelt = {unit: meant for units in found.values() for unit in sorted(units) if (meant := _spelt(unit))}
    if spelt:
        yield line_of(1, "units", spelt, "is this what the laboratory means by these units?")
    yield "  results:"
    named: set[str] = set()
    skewed = skewed_results(
        survey.root,
        sheet,
        columns["value"],
        called=[columns[part] for part in ("code", "name") if part in columns],
        unit=columns.get("unit"),
    )
    for (code, name), units in found.items():
        key = _unused(guess.slug(name or code).lower(), named)
        line = _result(code, name, [spelt.get(unit, unit) for unit in units])
        first = next((unit for unit in units if unit), "")
        logs = (
            line.value["role"] == "input" and (code or name, first if "unit" in line.value else "") in skewed
        )
        yield _drafted(2, key, replace(line, value=line.value | LOG) if logs else line)
    yield ""


def _results(
    survey: Survey, sheet: Sheet, columns: Mapping[str, str]
) -> dict[tuple[str, str], dict[str, int]]:
    """Return the units, with their counts, of each result: by code, or by name where it has none."""
    present = [part for part in ("code", "name", "unit") if part in columns]
    asked = [columns[part] for part in present]
    found: dict[tuple[str, str], dict[str, int]] = {}
    names: dict[str, str] = {}
    for words, count in words_of(survey.root, sheet.name, asked):
        cell = dict(zip(present, words, strict=True))
        code = cell.get("code", "")
        name = names.setdefault(code, cell.get("name", "")) if code else cell.get("name", "")
        units = found.setdefault((code, name), {})
        units[cell.get("unit", "")] = units.get(cell.get("unit", ""), 0) + count
    return found


def _spelt(unit: str) -> str | None:
    return SPELT.get(re.sub("l$", "L", re.sub("[\u00b5\u03bc]", "u", unit)))


def _result(code: str, name: str, units: Sequence[str]) -> Line:
    value: dict[str, Any] = {"role": "input"} | ({"code": code} if code else {"name": name})
    stated = [unit for unit in units if unit]
    label = {"label": name} if code and name else {}
    known, named = by_code(code), by_name(name)
    guessed = (
        "" if known or not named else f"is it the catalogue's {named.key} ({named.code})? else delete it"
    )
    if known is None and named is not None:
        value["catalogue"] = named.key
    test = known or named
    if not stated:
        unit = test.unit_of(code) if test else ""
        assumed = (
            f"no unit is stated; the catalogue's is {unit}: say `no_unit`, or another `unit`" if unit else ""
        )
        return Line(value | label, guessed or assumed)
    unit = stated[0]
    if not is_unit(unit):
        why = f"the unit {unit!r} is not one that medmm knows"
        value.pop("catalogue", None)
        return Line(
            value | {"role": "never", "why": why}, "map the unit under `biomarkers.units`, or leave it out"
        )
    question = guessed
    molar = test.molar_mass_g_per_mol if test else None
    for other in stated[1:]:
        try:
            factor(other, unit)
        except DataError:
            try:
                factor(other, unit, molar_mass_g_per_mol=molar)
                value["molar_mass_g_per_mol"] = molar
            except DataError:
                question = (
                    f"some are in {other!r}: map it under `biomarkers.units`, or give molar_mass_g_per_mol"
                )
    if guess.sounds_later(name):
        question = "its name sounds like the time after; was it known?"
    return Line(value | {"unit": unit} | _from_catalogue(test, unit) | {"summary": "last"} | label, question)


def _from_catalogue(test: Entry | None, unit: str) -> dict[str, Any]:
    """Return the plausible range in the source's own unit, where the catalogue has one."""
    try:
        found = test.range_in("plausible", unit) if test else None
    except DataError:
        return {}
    return {"plausible": list(found)} if found else {}


def _notes(parts: Parts, *, dated: bool) -> Lines:
    if parts.notes is None:
        return
    sheet, columns = parts.notes
    columns = columns if dated else {"text": columns["text"]}
    yield "notes:"
    yield line_of(1, "table", sheet.name)
    yield line_of(1, "columns", columns)
    yield "  # for a model to read them: `input: {take: all}` here, and `notes: {kind: notes}` in the recipe"
    yield ""


def _images(images: Sequence[Block], *, dated: bool) -> Lines:
    if images:
        yield "images:"
        for block in images:
            yield _drafted(1, block.name, image_block(block, dated=dated))
        yield ""


def _dates(parts: Parts, time: str | None) -> Lines:
    """How dates that are read are written, where that is not ISO 8601; asked, where several forms fit."""
    read: list[tuple[Sheet, list[str]]] = []
    if parts.records is not None:
        dated = [name for name, column in parts.records.columns.items() if name == time or _is_date(column)]
        read.append((parts.records, dated))
    for found in (parts.results, parts.notes):
        if found is not None and time is not None:
            sheet, mapped = found
            read.append((sheet, [mapped[part] for part in ("time", "available_at") if part in mapped]))
    lines: list[str] = []
    for sheet, columns in read:
        written = {name: sheet.columns[name].forms for name in columns if sheet.columns[name].forms}
        lines += [f"  {flow(sheet.name)}:"] if written else []
        for name, (first, *others) in written.items():
            question = f"every cell fits {first} and {' and '.join(others)}: which is it?" if others else ""
            lines.append(line_of(2, name, first, question))
    if lines:
        yield "dates:"
        yield from lines
        yield ""


def _decimals(parts: Parts) -> Lines:
    """The tables with a decimal comma, of those that are read for numbers."""
    numbers = parts.records and any(_is_number(column) for column in parts.records.columns.values())
    read = [parts.records if numbers else None, parts.results[0] if parts.results else None]
    read += [sheet for sheet in parts.labels if any(_is_quantity(c) for c in sheet.columns.values())]
    commas = [sheet for sheet in read if sheet is not None and sheet.decimal_comma]
    pointed = [f"{flow(column)} of {sheet.name}" for sheet in commas for column in sheet.pointed]
    question = f"{', '.join(pointed)}: some numbers have a point all the same" if pointed else ""
    if commas:
        yield line_of(0, "decimal_comma", [sheet.name for sheet in commas], question)
        yield ""


def _is_quantity(column: Column) -> bool:
    return guess.outcome_of(column).get("kind") == "regression"


def _is_number(column: Column) -> bool:
    return bool(guess.field(column).value.get("kind") == "number")


def _is_date(column: Column) -> bool:
    return bool(guess.field(column).value.get("kind") == "date")


def _never(survey: Survey, parts: Parts) -> Lines:
    if parts.others or survey.unreadable:
        yield "never_tables:"
        for table, line in parts.others.items():
            yield _drafted(1, table, line)
        for table in survey.unreadable:
            yield line_of(1, table, "it cannot be read", "repair it, or leave it out")
        yield ""
    columns = dict(_never_columns(survey, parts))
    if columns:
        yield "never_columns:"
        for table, lines in columns.items():
            yield f"  {flow(table)}:"
            yield from (_drafted(2, name, line) for name, line in lines.items())
        yield ""


def _never_columns(survey: Survey, parts: Parts) -> Iterator[tuple[str, dict[str, Line]]]:
    for sheet in parts.labels:
        taken = {survey.id, *guess.outcomes(sheet, survey)}
        lines = {n: _unmapped(c) for n, c in sheet.columns.items() if n not in taken}
        if lines:
            yield sheet.name, lines
    dated = guess.clock(parts.records, survey) is not None
    for found in (parts.results, parts.notes):
        if found is not None:
            sheet, columns = found
            unused = {"day"} if dated else {"time", "available_at"}
            taken = {survey.id, *(name for part, name in columns.items() if part not in unused)}
            lines = {n: _unmapped(c) for n, c in sheet.columns.items() if n not in taken}
            if lines:
                yield sheet.name, lines


def _unmapped(column: Column) -> Line:
    if column.filled == 0:
        return Line("empty throughout")
    if column.is_other_date:
        return Line("its dates are of another form", guess.REWRITE)
    return Line("not mapped to anything", "is it needed?")


def _splits(survey: Survey, parts: Parts, images: Sequence[Block]) -> Lines:
    outcome = [
        guess.slug(name)
        for sheet in parts.labels
        for name, column in guess.outcomes(sheet, survey).items()
        if guess.outcome_of(column).get("kind") != "regression"
    ][:1]
    question = "" if outcome else "name the outcome in `stratify` too, so that every fold has its share"
    found = outcome + [block.name for block in images]
    yield line_of(0, "splits", {"by": "patient", "stratify": found, "folds": 5, "seed": 0}, question)


def _unused(name: str, taken: set[str]) -> str:
    unique = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 1000))) if n not in taken)
    taken.add(unique)
    return unique
