"""Epochs of fits that stop early, one after the other or side by side."""

from __future__ import annotations

from medmm.fitting.counting import Epochs


def test_a_fit_that_stops_early_is_whole_when_the_next_begins() -> None:
    epochs = Epochs(10)
    assert [epochs.count("a", epoch) for epoch in range(3)] == [1, 2, 3]
    assert epochs.count("b", 0) == 11
    assert epochs.count("b", 9) == 20
    assert epochs.count("a", 3) == 20  # it has ended


def test_side_by_side_each_has_epochs_of_its_own() -> None:
    epochs = Epochs(10, jobs=2)
    assert [epochs.count("a", 0), epochs.count("b", 0), epochs.count("a", 1)] == [1, 2, 3]
    assert epochs.count("a", 9) == 11
    assert epochs.count("c", 0) == 12
    assert epochs.count("b", 4) == 16
    assert epochs.count("d", 0) == 16 - 1 + 10 + 1  # c was heard of longest ago


def test_the_count_of_one_after_the_other_never_falls() -> None:
    epochs = Epochs(5)
    told = [epochs.count(f"fit{fit}", epoch) for fit in range(4) for epoch in range(1 + fit % 5)]
    assert told == sorted(told)
