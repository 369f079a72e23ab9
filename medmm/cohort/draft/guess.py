"""What a column or table probably is, by its name and its words; what is not plain becomes a question."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmm.catalogue import Entry, by_name
from medmm.cohort.draft.lines import flow
from medmm.cohort.draft.profile import Column, Sheet, Survey, plain, words_of
from medmm.errors import DataError
from medmm.units import factor, is_unit

CONSEQUENCE = re.compile(
    r"post|follow|discharge|death|dead|died|surviv|mortal|vital_|icu|(^|_)los($|_)|length_of_stay|hospitali[sz]"
    r"|outcome|histolog|histopath|patholog|biops|isup|gleason|(^|_)(grade|stage|t_stage|n_stage|m_stage)|readmi|recur"
    r"|complication|lesion|(pi|bi|li|ti)_?rads|diagnos|treat|therap|surg|operat|at_index|n_images|has_imag"
    r"|num_images|(^|_)events?(_|$)|time_to|censor|follow_?up|entlass|verstorben|überleb|befund|komplikation"
    r"|(^|_)tod(_|$)|d[ée]c[èe]s|sortie|survie|r[ée]cidive",
    re.IGNORECASE,
)
"""Names of what is usually known, decided or counted after the moment of a prediction."""
LABELS = re.compile(
    r"label|outcome|endpoint|target|truth|ground|zielgr|endpunkt|(?<![a-z])issue", re.IGNORECASE
)
MISSING_WORDS = frozenset(
    {"", "-", "--", ".", "?", "na", "n/a", "n.a.", "nan", "nd", "n.d.", "null", "missing", "unknown"}
    | {"unk", "k.a.", "ka", "unbekannt", "inconnu", "nc"}
)
"""Words that usually mean that a cell is empty, in lower case; "none" often is a finding: no fibrosis."""
SITE = re.compile(r"^(center|centre|site|hospital|institution|clinic|facility)(_|$)", re.IGNORECASE)
UNITS: Mapping[str, str] = {
    r"^(age|alter|âge)(_|$)|_(age|alter|âge)(_|$)|^age_at": "a",
    r"_kg$|^(weight|gewicht|poids)$": "kg",
    r"_cm$|^height$": "cm",
    r"_mm$": "mm",
    r"^(bmi|imc)$|body_mass_index": "kg/m2",
    r"^days_|_days$": "d",
}
"""What a name says of its unit."""
REWRITE = "no form of `dates` fits all cells; write them as 2024-06-01 05:43 (ISO 8601), and draft anew"
"""What to do about dates that no form fits."""
GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
DAYS = r"(^|_)(days?|tage|jours)(_|$)"
"""Names of a number of days; among later facts, until the event or until the patient was last seen."""
PROSE = 0.5
"""A column of which more than this share is sentences is free text."""
MOST_CLASSES = 10
"""An outcome of at most so many words has classes."""
SOME_NUMBERS = 0.2
"""A column of numbers and words is a number when at least this share of it is."""


@dataclass(frozen=True, slots=True)
class Line:
    """One drafted line: a value, and the question that a person must answer, if there is one."""

    value: Any
    question: str = ""


def sounds_later(name: str) -> bool:
    """Whether a name sounds like something known only after the moment of a prediction."""
    return CONSEQUENCE.search(plain(name)) is not None


def unread_date(sheet: Sheet | None) -> str:
    """Return the first column of dates that no form fits, or "" where there is none."""
    columns = sheet.columns.values() if sheet else ()
    return next((column.name for column in columns if column.is_other_date), "")


def field(column: Column) -> Line:
    """Draft one column of the table of records."""
    never = _never(column)
    if never is not None:
        return never
    if column.is_date:
        return Line({"role": "time", "kind": "date"}, "a date: an `input` counts its days, if it was known")
    if column.is_other_date:
        return Line({"role": "never", "why": "its dates are of another form"}, REWRITE)
    if SITE.search(plain(column.name)):
        return Line({"role": "subgroup", "kind": "category"})
    named = re.search(r"(^|_)(id|uid|number|nr)$", plain(column.name), re.IGNORECASE)
    if named or (column.is_unique and not column.is_number):
        return Line({"role": "key"})
    return _input(column)


def _never(column: Column) -> Line | None:
    """A column that no model sees until a person says otherwise."""
    if column.filled == 0:
        return Line({"role": "never", "why": "empty throughout"})
    if column.distinct == 1:
        return Line({"role": "never", "why": "everybody has the same value"})
    if sounds_later(column.name):
        why = "its name sounds like something known after the prediction time"
        return Line({"role": "never", "why": why}, "was it known at the prediction time? then `input`")
    if column.prose > PROSE * column.filled and not column.words:
        return Line({"role": "never", "why": "free text"}, "free text: may a model see it?")
    return None


def _input(column: Column) -> Line:
    if column.is_flag:
        return Line({"role": "input", "kind": "flag"})
    unit = unit_of(column.name)
    number = {"role": "input", "kind": "number"} | ({"unit": unit} if unit else {})
    test = by_name(column.name) or by_name(re.sub(r"[(\[].*", "", column.name))
    if test is not None and column.is_number and _counts_in(test, unit):
        question = f"is it {test.label} in {unit or test.unit}? else give its unit"
        return Line(number | {"catalogue": test.key}, question)
    if column.others and column.numbers >= SOME_NUMBERS * column.filled:
        return Line(
            number | {"missing_codes": list(column.others)}, "do these words all mean that it is missing?"
        )
    if column.is_number:
        return Line(number)
    if column.words:
        return _category(column)
    why = f"{column.distinct} different words"
    return Line({"role": "never", "why": why}, f"{why}: is it a category, a number, an id or free text?")


def _counts_in(test: Entry, unit: str) -> bool:
    """Whether a test may be given in a unit; "" is its own."""
    try:
        factor(test.unit, unit or test.unit, molar_mass_g_per_mol=test.molar_mass_g_per_mol)
    except DataError:
        return False
    return True


def unit_of(name: str) -> str:
    """Return the unit that a column's name states, in brackets at its end or by a word; "" where it does not.

    >>> unit_of("Stiffness (kPa)"), unit_of("age at visit"), unit_of("Age (years)"), unit_of("site")
    ('kPa', 'a', 'a', '')
    """
    bracketed = re.search(r"[(\[]([^()\[\]]+)[)\]]$", name.strip())
    if bracketed is not None and is_unit(bracketed[1].strip()):
        return bracketed[1].strip()
    return next((unit for pattern, unit in UNITS.items() if re.search(pattern, plain(name), re.I)), "")


def _category(column: Column) -> Line:
    value = {"role": "input", "kind": "category"}
    missing = missing_words(column)
    if not missing:
        return Line(value)
    return Line(value | {"missing_codes": missing}, "do these words all mean that it is missing?")


def missing_words(column: Column) -> list[str]:
    """Return the words of a column that usually mean that a cell is empty."""
    return [word for word in column.words if word.lower() in MISSING_WORDS]


@dataclass(frozen=True, slots=True)
class Parts:
    """Which table is what.

    Attributes:
        records: the wide table of fields, None when no table has one row per subject.
        results: the long table of results, with the columns it needs.
        notes: the long table of free text.
        labels: tables that may hold the outcome.
        others: the rest, and why no model sees them.
    """

    records: Sheet | None
    results: tuple[Sheet, dict[str, str]] | None
    notes: tuple[Sheet, dict[str, str]] | None
    labels: tuple[Sheet, ...]
    others: Mapping[str, Line]


def parts(survey: Survey) -> Parts:
    """Tell the tables apart."""
    wide: list[Sheet] = []
    long: list[Sheet] = []
    others: dict[str, Line] = {}
    for sheet in survey.sheets:
        column = sheet.columns.get(survey.id)
        if column is None:
            others[sheet.name] = Line("it has no column of subject ids", "what is this table?")
        elif sounds_later(sheet.name) and not LABELS.search(sheet.name):
            others[sheet.name] = Line("its name sounds like the time after", "is any of it known in time?")
        else:
            (wide if column.is_unique else long).append(sheet)
    labels = tuple(sheet for sheet in wide if LABELS.search(sheet.name))
    records = max(
        (sheet for sheet in wide if sheet not in labels), key=lambda s: (len(s.columns), s.name), default=None
    )
    results = next(((s, m) for s in long if (m := result_columns(s)) is not None), None)
    notes = next(((s, m) for s in long if not _is(s, results) and (m := note_columns(s)) is not None), None)
    for sheet in (*wide, *long):
        if sheet is not records and sheet not in labels and not _is(sheet, results) and not _is(sheet, notes):
            others[sheet.name] = Line("not understood by the draft", "what is this table?")
    return Parts(records, results, notes, labels, others)


def _is(sheet: Sheet, found: tuple[Sheet, dict[str, str]] | None) -> bool:
    return found is not None and sheet is found[0]


_RESULT_WORDS: Mapping[str, str] = {
    "code": r"^(loinc|code|test_code|item_?id|itemcode)$",
    "name": r"^(name|test|test_name|analyte?|item|param[eè]t(er|re)|label|untersuchung|bezeichnung|examen)$",
    "value": r"^(value|result|numeric_value|valuenum|result_value|(mess)?wert|ergebnis|valeur|r[ée]sultat)$",
    "unit": r"^(units?|valueuom|uom|einheit|unit[ée])$",
    "time": r"(collected|taken|drawn|charttime|sampled|observed|time|date|datum|(ent|ab)nahme|pr[ée]l[eè]v)",
    "day": r"^(days?_|day$|offset_?days|rel_?day)",
    "available_at": r"(available|resulted|reported|storetime|issued|validated|freigabe|valid[ée]|rendu)",
    "status": r"^(status|result_status)$",
}


def result_columns(sheet: Sheet) -> dict[str, str] | None:
    """Return which column of a long table of results holds what, or None when it is no such table."""
    found: dict[str, str] = {}
    for part, pattern in _RESULT_WORDS.items():
        for name, column in sheet.columns.items():
            clocks = part not in ("time", "available_at") or column.is_date or column.filled == 0
            if name not in found.values() and re.search(pattern, plain(name), re.IGNORECASE) and clocks:
                found[part] = name
                break
    return found if "value" in found and ("code" in found or "name" in found) else None


def note_columns(sheet: Sheet) -> dict[str, str] | None:
    """Return which column of a table of notes holds what, or None when it is no such table."""
    text = next((c.name for c in sheet.columns.values() if c.prose > PROSE * c.filled), None)
    if text is None:
        return None
    time = next((c.name for c in sheet.columns.values() if c.is_date), None)
    return {"text": text} | ({"time": time} if time else {})


def slug(text: str) -> str:
    """Return a text as a name that a specification accepts: letters, digits and underscores.

    >>> slug("Größe (cm)"), slug("Stéatose")
    ('Groesse', 'Steatose')
    """
    words = re.sub(r"\[.*?\]|\(.*?\)", " ", text).translate(GERMAN)
    words = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_")[:40].strip("_")
    return name if re.match(r"[A-Za-z]", name) else f"x_{name}".rstrip("_")


def outcomes(sheet: Sheet, survey: Survey) -> dict[str, Column]:
    """Return the columns that could be an outcome: of two words, of some, or of many numbers."""
    return {
        name: column for name, column in sheet.columns.items() if name != survey.id and outcome_of(column)
    }


def outcome_of(column: Column) -> dict[str, Any]:
    """Return the kind of outcome that a column could be, with its words; {} where it could be none."""
    missing = missing_words(column) or [word for word in column.others if word.lower() in MISSING_WORDS]
    words = [word for word in column.words if word not in missing]
    codes = {"missing_codes": missing} if missing else {}
    if len(words) == 2:
        return {"kind": "binary", "positive": positive_of(words)} | codes
    if 3 <= len(words) <= MOST_CLASSES and not column.is_date:
        return {"kind": "multiclass", "classes": [int(w) if w.isdigit() else w for w in words]} | codes
    numbers = column.is_number or (missing and column.numbers >= SOME_NUMBERS * column.filled)
    unit = {"unit": unit_of(column.name)} if unit_of(column.name) else {}
    return {"kind": "regression"} | unit | codes if numbers and column.distinct > MOST_CLASSES else {}


def positive_of(words: Sequence[str]) -> Any:
    """Return the word of two that more often means that something is there."""
    for word in words:
        if word.lower() in ("1", "1.0", "yes", "true", "positive", "y", "t", "malignant", "ja", "oui"):
            return int(word) if word.isdigit() else word
    return words[-1]


def perhaps(parts: Parts, survey: Survey) -> str:
    """Return what could be an outcome, for a question: a time to an event, else columns of the records."""
    for sheet in survey.sheets:
        later = parts.others.get(sheet.name)
        found_time = _time_to_event(sheet) if later and survey.id in sheet.columns else None
        if found_time:
            return f"; perhaps `{flow(found_time)}`, then delete {sheet.name} under `never_tables`"
    columns = parts.records.columns.values() if parts.records else ()
    found = [repr(column.name) for column in columns if sounds_later(column.name) and column.distinct > 1]
    return f"; perhaps {', '.join(found[:4])} of {parts.records.name}" if found and parts.records else ""


def _time_to_event(sheet: Sheet) -> dict[str, Any] | None:
    """Return the outcome of a table of the days that people were followed, and of who had the event."""
    columns = sheet.columns.values()
    days = [c for c in columns if c.is_number and not c.words and re.search(DAYS, plain(c.name), re.I)]
    events = [c for c in columns if c.is_flag]
    if len(days) != 1 or len(events) != 1:
        return None
    (event,) = events
    told = {"event": event.name, "positive": positive_of(event.words)}
    return {slug(event.name): {"table": sheet.name, "kind": "survival", "column": days[0].name} | told}


def clock(records: Sheet | None, survey: Survey) -> tuple[str, int, int] | None:
    """Return the column of the records that could be the prediction time, and how often it is a StudyDate.

    Of several dates the one that equals the most StudyDates is taken; (name, equal, compared).
    """
    dates = [
        c for c in (records.columns.values() if records else ()) if c.is_date and not sounds_later(c.name)
    ]
    if not dates or records is None:
        return None
    studied = {
        entry.patient_id: entry.study_date for folder in survey.folders for entry in folder.index.series
    }
    best = None
    for column in dates:
        equal, compared = _same_days(records, column, survey, studied)
        if best is None or equal > best[1]:
            best = (column.name, equal, compared)
    return best


def _same_days(records: Sheet, column: Column, survey: Survey, studied: Mapping[str, str]) -> tuple[int, int]:
    compared = equal = 0
    forms = {column.name: column.forms[0]} if column.forms else {}
    rows = words_of(survey.root, records.name, [survey.id, column.name], limit=None, forms=forms)
    for (subject, text), _ in rows:
        if studied.get(subject):
            compared += 1
            equal += text[:10].replace("-", "") == studied[subject]
    return equal, compared
