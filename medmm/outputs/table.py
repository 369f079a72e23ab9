"""Scores as a table: Parquet, CSV or JSON lines, one row per score, and back with the same numbers.

The columns are ``subject_id, status, reason, bundle_sha256, submodel, undated``, then ``<outcome>.kind``,
``<outcome>.logit``, ``<outcome>.calibrated_logit``, ``<outcome>.probability`` and ``<outcome>.decision``
per outcome (of a quantity also ``<outcome>.value``, of classes ``<outcome>.probability.<class>`` and
``<outcome>.logit.<class>``, of a time to an event ``<outcome>.probability.<day>``), ``modality.<name>`` per
modality ("used", or why not), and ``as_of_days`` and ``warnings`` as JSON text. A refused patient has a row
whose outcome cells are empty.

``subject_id`` is the real id, so these files have mode 0600.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmm.errors import DataError, OutputError, told
from medmm.sample import Outcome, Score
from medmm.sources.duck import read_parquet, write_parquet

_PLAIN = ("subject_id", "status", "reason", "bundle_sha256", "submodel")
_NUMBERS = ("logit", "calibrated_logit", "probability")
_OUTCOME = ("kind", *_NUMBERS, "decision")
_EACH = {"probability": "probabilities", "logit": "logits"}
"""Columns with a further part, by class or by day, and what they hold."""
_MODALITY = "modality."
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""First characters that a spreadsheet may take for a formula (OWASP, CSV injection), and the quote itself."""

Row = dict[str, Any]
Format = tuple[Callable[[Sequence[Score], Path], None], Callable[[Path], list[Score]]]
"""How a suffix is written, and how it is read."""


def to_json(score: Score) -> str:
    """Return a score as one line of JSON; numbers read back to the same float.

    Raises:
        OutputError: if a number of the score is not finite.
    """
    plain = {
        **{name: getattr(score, name) for name in _PLAIN},
        "undated": score.undated,
        "outcomes": {
            name: {key: getattr(outcome, key) for key in _OUTCOME} | _further(outcome)
            for name, outcome in score.outcomes.items()
        },
        "modalities": dict(score.modalities),
        "as_of_days": dict(score.as_of_days),
        "warnings": list(score.warnings),
    }
    return _json(plain)


def from_json(text: str) -> Score:
    """Return the score that :func:`to_json` wrote.

    Raises:
        DataError: if the text is not such a score.
    """
    try:
        plain = json.loads(text)
        outcomes = {name: Outcome(**outcome) for name, outcome in plain.pop("outcomes").items()}
        return Score(outcomes=outcomes, warnings=tuple(plain.pop("warnings")), **plain)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"not a score in JSON ({type(error).__name__})") from None


def check_place(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a place that :func:`write_scores` could not write, or should not, before anybody is scored.

    Args:
        path: of the score file.
        overwrite: whether one that is there may go.

    Raises:
        OutputError: if the suffix is none of the formats, the folder cannot be made, or a file is there.
    """
    _format(path)
    try:
        taken = path.exists() and not overwrite
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(path)!r} cannot be written ({told(error)}); name another folder") from None
    if path.is_dir():
        raise OutputError(f"{str(path)!r} cannot be written: it is a folder; name a file")
    if taken:
        raise OutputError(f"{str(path)!r} is there already; name a new file, or replace it with --overwrite")


def write_scores(scores: Iterable[Score], path: Path) -> Path:
    """Write one row per score; the suffix chooses ``.parquet``, ``.csv`` or ``.jsonl``.

    The file appears complete or not at all, with mode 0600.

    Raises:
        OutputError: if the folder cannot be written, the suffix is another, or a number is not finite.
    """
    path = Path(path)
    write = _format(path)[0]
    content = list(scores)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(content, path)
    except (OSError, ValueError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{str(path)!r} cannot be written ({told(error)}); name another folder") from None
    return path


def read_scores(path: Path) -> list[Score]:
    """Return the scores of a file that :func:`write_scores` wrote, in its order.

    Raises:
        DataError: if the file is missing or is not such a table.
        OutputError: if the suffix is none that scores are written with.
    """
    path = Path(path)
    read = _format(path)[1]
    try:
        return read(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name an existing file") from None
    except DataError as error:
        raise DataError(f"{path} holds no scores: {error}") from None


def _atomically(path: Path, content: bytes) -> None:
    """Fill a private temporary file beside ``path``, then rename it over ``path``."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".scores-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise OutputError(
            "a score with a number that is not finite is not written; refuse the patient"
        ) from None


def _row(score: Score) -> Row:
    row: Row = {name: getattr(score, name) for name in _PLAIN}
    row["undated"] = score.undated
    for name, outcome in score.outcomes.items():
        cells = {key: getattr(outcome, key) for key in _OUTCOME}
        if outcome.value is not None:
            cells["value"] = outcome.value
        for key, held in _EACH.items():
            cells |= {f"{key}.{part}": number for part, number in getattr(outcome, held).items()}
        if not all(math.isfinite(cell) for cell in cells.values() if isinstance(cell, float)):
            raise OutputError(f"outcome {name!r} of a score is not finite; refuse the patient instead")
        row |= {f"{name}.{key}": cell for key, cell in cells.items()}
    row |= {_MODALITY + name: word for name, word in score.modalities.items()}
    row["as_of_days"] = _json(dict(score.as_of_days))
    row["warnings"] = _json(list(score.warnings))
    return row


def _further(outcome: Outcome) -> Row:
    """Return what only some kinds of outcome have."""
    held: Row = {} if outcome.value is None else {"value": outcome.value}
    return held | {key: dict(getattr(outcome, key)) for key in _EACH.values() if getattr(outcome, key)}


def _outcome(row: Mapping[str, Any], name: str) -> Outcome:
    def number(key: str) -> float | None:
        cell = row.get(f"{name}.{key}")
        return None if cell is None or cell == "" else float(cell)

    each: dict[str, dict[str, float]] = {}
    for key, held in _EACH.items():
        start = f"{name}.{key}."
        cells = {column.removeprefix(start): cell for column, cell in row.items() if column.startswith(start)}
        each[held] = {part: float(cell) for part, cell in cells.items() if cell is not None and cell != ""}
    return Outcome(
        kind=row[f"{name}.kind"],
        logit=float(row[f"{name}.logit"]),
        calibrated_logit=float(row[f"{name}.calibrated_logit"]),
        probability=number("probability"),
        decision=row[f"{name}.decision"],
        value=number("value"),
        **each,
    )


def _score(row: Mapping[str, Any]) -> Score:
    # An outcome's name has no point, so a class named "kind" is not taken for one.
    names = [c.removesuffix(".kind") for c in row if c.endswith(".kind") and c.count(".") == 1]
    return Score(
        subject_id=row["subject_id"],
        status=row["status"],
        reason=row["reason"],
        bundle_sha256=row["bundle_sha256"],
        submodel=row.get("submodel") or "",  # score files had none before there were submodels
        undated=int(row["undated"]),
        outcomes={name: _outcome(row, name) for name in names if row[f"{name}.kind"]},
        modalities={
            column.removeprefix(_MODALITY): word
            for column, word in row.items()
            if column.startswith(_MODALITY) and word
        },
        as_of_days=json.loads(row["as_of_days"]),
        warnings=tuple(json.loads(row["warnings"])),
    )


def _scores(rows: Iterable[Mapping[str, Any]]) -> list[Score]:
    try:
        return [_score(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a table of scores ({type(error).__name__})") from None


def _columns(scores: Sequence[Score]) -> list[str]:
    """Return the columns in the order of the module's docstring; outcomes and modalities as they appear."""
    outcomes = dict.fromkeys(name for score in scores for name in score.outcomes)
    modalities = dict.fromkeys(name for score in scores for name in score.modalities)
    for name in (*outcomes, *modalities):
        if not name or "." in name or (name in outcomes and name.casefold() == "modality"):
            raise OutputError(f"an outcome or modality named {name!r} cannot head a column of a score file")
    for names in (outcomes, modalities):
        if len({name.casefold() for name in names}) < len(names):
            raise OutputError(f"{', '.join(names)} differ in capitals only; no table engine keeps them apart")
    return [
        *_PLAIN,
        "undated",
        *(f"{name}.{key}" for name in outcomes for key in (*_OUTCOME, *_parts(scores, name))),
        *(_MODALITY + name for name in modalities),
        "as_of_days",
        "warnings",
    ]


def _parts(scores: Sequence[Score], name: str) -> list[str]:
    """Return the further columns of one outcome, in the order of its classes or days."""
    found: dict[str, None] = {}
    for score in scores:
        if name in score.outcomes:
            outcome = score.outcomes[name]
            found |= {"value": None} if outcome.value is not None else {}
            found |= {f"{key}.{part}": None for key, held in _EACH.items() for part in getattr(outcome, held)}
    return list(found)


def _write_parquet(scores: Sequence[Score], path: Path) -> None:
    rows = [_row(score) for score in scores]
    write_parquet({column: [row.get(column) for row in rows] for column in _columns(scores)}, path)


def _read_parquet(path: Path) -> list[Score]:
    columns = read_parquet(path)
    return _scores(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _quoted(cell: object) -> object:
    """Return the cell with a quote before a character that would start a formula; numbers as they are."""
    return "'" + cell if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _write_csv(scores: Sequence[Score], path: Path) -> None:
    columns = _columns(scores)
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow([_quoted(column) for column in columns])
    for score in scores:
        row = _row(score)
        writer.writerow([_quoted(row.get(column, "")) for column in columns])
    _atomically(path, text.getvalue().encode())


def _read_csv(path: Path) -> list[Score]:
    try:
        text = io.StringIO(path.read_bytes().decode("utf-8"), newline="")
        header, *cells = [[cell.removeprefix("'") for cell in line] for line in csv.reader(text)]
        return _scores(dict(zip(header, line, strict=True)) for line in cells)
    except (ValueError, csv.Error):
        raise DataError("not a CSV table of scores") from None


def _write_jsonl(scores: Sequence[Score], path: Path) -> None:
    _atomically(path, "".join(to_json(score) + "\n" for score in scores).encode())


def _read_jsonl(path: Path) -> list[Score]:
    text = path.read_bytes().decode("utf-8", "replace")
    return [from_json(line) for line in text.split("\n") if line]


_FORMATS: dict[str, Format] = {
    ".parquet": (_write_parquet, _read_parquet),
    ".csv": (_write_csv, _read_csv),
    ".jsonl": (_write_jsonl, _read_jsonl),
}


def _format(path: Path) -> Format:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise OutputError(
            f"no score file has the suffix {path.suffix!r}; use one of {', '.join(_FORMATS)}"
        ) from None
