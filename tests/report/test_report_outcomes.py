"""Confusion matrices on a page keep small counts back, and what would give them away."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medmm.cohort.disclosure import SMALL
from medmm.report.outcomes import KEPT_BACK, confusion_table, taken_for

COUNTS = st.integers(2, 4).flatmap(lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 40)))


def test_a_matrix_without_small_counts_is_shown_whole():
    _, table = confusion_table("Disposition", ("home", "ward"), [[20, 0], [5, 9]])
    assert table.rows == (("home", "20", "0", "20"), ("ward", "5", "9", "14"))
    assert KEPT_BACK not in table.note


@given(COUNTS)
def test_no_small_count_is_shown_or_follows_from_a_sum(counts):
    _, table = confusion_table("Disposition", tuple("abcd")[: len(counts)], counts.tolist())
    shown = np.array([row[1:-1] for row in table.rows])
    closed = shown == KEPT_BACK
    assert closed[(counts > 0) & (counts < SMALL)].all()
    for axis in (0, 1):
        alone = (closed.sum(axis=axis) == 1).any()
        assert not alone or len(counts) == 1
    assert (shown[~closed] == counts.astype(str)[~closed]).all()


def test_the_words_of_a_terminal_keep_the_same_counts_back():
    *lines, why = taken_for(("home", "ward", "theatre"), [[30, 2, 8], [6, 25, 7], [5, 9, 40]])
    assert lines[0] == "home was taken for: 30 home, * ward, * theatre"
    assert all(line.count(KEPT_BACK) != 1 for line in lines)
    assert why.startswith("*: a count from 1 to 4")
