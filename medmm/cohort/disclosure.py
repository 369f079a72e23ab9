"""Small counts are not shown, nor is anything they could be worked out from.

A table of counts is published with its sums. A cell of 1 to 4 is hidden; then, in every line that adds up to
something published, others are hidden until at least two are and they hold five people or more together.

Source: Hundepool et al. 2012, Statistical Disclosure Control, ch. 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from medmm.arrays import Bools, Ints

SMALL = 5
"""Counts from 1 to one less are hidden."""

SHORT = 4
"""A cell of so few characters is a code ("n/a", "neg"); nobody is named in it."""

LONGEST = 20
"""Characters of a cell that are shown at most."""

Line = Sequence[tuple[int, int]]
"""Cells (row, column) of which the published total is the sum, or one is the sum of the others."""


def tellable(text: str, count: int) -> bool:
    """Tell whether a cell's text may be shown: a short code, or a word that several cells share."""
    return len(text) <= SHORT or count >= SMALL


def told(text: str, count: int) -> str:
    """Return a cell's text as it may be shown: itself, else its shape ("Jane Doe 1954" as "Aaaa Aaa 9999").

    What cannot be read is sometimes a remark about a person. Its shape is enough to find it in the table.

    Args:
        count: how many cells hold just this text.
    """
    if tellable(text, count):
        return repr(text[:LONGEST])
    shape = "".join(
        "9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text[:LONGEST]
    )
    return f"like {shape!r}"


def hidden(counts: Ints, lines: Sequence[Line]) -> Bools:
    """Return which cells must not be shown, ``[row, column]``.

    Args:
        counts: ``[row, column]``, numbers of people.
        lines: which cells depend on each other.
    """
    hide = (counts > 0) & (counts < SMALL)
    changed = True
    while changed:
        changed = False
        for line in lines:
            open_cells = [cell for cell in line if not hide[cell]]
            closed = [cell for cell in line if hide[cell]]
            if closed and open_cells and not _safe(counts, closed):
                hide[min(open_cells, key=lambda cell: (counts[cell] == 0, counts[cell], cell))] = True
                changed = True
    return hide


def _safe(counts: Ints, closed: Line) -> bool:
    return len(closed) > 1 and sum(int(counts[cell]) for cell in closed) >= SMALL


def lines_of(rows: int, groupings: Sequence[Sequence[int]]) -> list[Line]:
    """Return the lines of a table whose rows add up to each column's total and whose groups to column 0.

    Args:
        rows: levels of one field; in each column they add up to the people of that column.
        groupings: per way of grouping, its columns, which together are column 0.
    """
    columns = sorted({0, *(column for group in groupings for column in group)})
    down: list[Line] = [[(row, column) for row in range(rows)] for column in columns]
    across: list[Line] = [
        [(row, 0), *((row, c) for c in group)] for row in range(rows) for group in groupings
    ]
    return down + across
