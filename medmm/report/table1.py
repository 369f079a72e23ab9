"""Table 1 as a page and as CSV; it prints what it is given, small counts are hidden already."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from medmm.report.facts import FlowStep
from medmm.report.images import image_size
from medmm.report.page import render
from medmm.report.plots import missingness
from medmm.report.wording import number

if TYPE_CHECKING:
    from medmm.cohort.table1 import Row, Table1

APART = 0.1
"""Standardised difference beyond which two groups are called different (Austin 2009)."""


def render_table1(table: Table1) -> str:
    """Return the page as one self-contained HTML document."""
    picture = missing_map(table)
    return render(
        "table1.html.j2",
        table=table,
        flow=[FlowStep(*step) for step in table.flow],
        groupings=list(dict.fromkeys(group.grouping for group in table.groups if group.grouping)),
        cells=[_cells(row) for row in table.rows],
        apart=APART,
        picture=picture,
        size=image_size(picture) if picture else None,
    )


def missing_map(table: Table1) -> bytes:
    """Return who lacks what as PNG; empty where nobody lacks anything."""
    if not any(any(lacking) for _, lacking in table.patterns):
        return b""
    return missingness(table.fields, table.patterns)


def table1_csv(table: Table1) -> str:
    """Return the table as CSV: one line per field and level, the columns of each group side by side."""
    groupings = list(dict.fromkeys(group.grouping for group in table.groups if group.grouping))
    measures = ("n", "share", "mean", "sd", "median", "lower quartile", "upper quartile")
    head = ["field", "label", "label_zh", "level", "unit"]
    head += [f"{group.name}: {measure}" for group in table.groups for measure in measures]
    head += [f"standardised difference by {grouping}" for grouping in groupings]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_safe(cell) for cell in head])
    for row in table.rows:
        line = [row.field, row.label, row.label_zh, row.level, row.unit]
        for count, share, summary in zip(row.counts, row.shares, row.summaries, strict=True):
            line += ["<5 or hidden" if count is None else str(count), "" if share is None else f"{share:.4f}"]
            line += [""] * 5 if summary is None else [f"{value:.6g}" for value in summary]
        line += [f"{row.differences[g]:.4f}" if g in row.differences else "" for g in groupings]
        writer.writerow([_safe(cell) for cell in line])
    return text.getvalue()


def _safe(cell: str) -> str:
    """Return a cell that a spreadsheet does not read as a formula."""
    return f"'{cell}" if cell.startswith(tuple("=+-@\t\r")) and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(row: Row) -> list[tuple[str, str]]:
    """Return what each group's cell says: the figure, and the small print."""
    told = []
    for count, share, summary in zip(row.counts, row.shares, row.summaries, strict=True):
        if summary is not None:
            mean, spread, middle, lower, upper = (number(value, _decimals(summary[2])) for value in summary)
            told.append((f"{middle} ({lower} to {upper})", f"mean {mean}, SD {spread}"))
        elif count is None or share is None:
            told.append(("hidden", ""))
        else:
            told.append((f"{count}", f"{100 * share:.0f} %"))
    return told


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
