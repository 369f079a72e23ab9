"""Dealing patients into inner folds and select sets: stratified, seeded, insensitive to row order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from medmm.arrays import Bools, Float64, Ints


def deal(strata: Sequence[str], keys: Sequence[str], *, folds: int, seed: int) -> Ints:
    """Return the fold of each patient, ``[patient]``; strata are spread as evenly as their sizes allow.

    Patients are sorted by stratum and a seeded hash of their key, then dealt like cards; the deal goes on
    from one stratum to the next, so folds differ by one patient at most.
    """
    order = sorted(range(len(keys)), key=lambda index: (strata[index], _hash(keys[index], seed)))
    dealt = np.empty(len(keys), dtype=np.int64)
    dealt[np.asarray(order, dtype=np.int64)] = np.arange(len(keys)) % folds
    return dealt


def set_aside(labels: Float64, keys: Sequence[str], *, share: float, seed: int) -> Bools:
    """Return which patients are set aside, ``[patient]``: about ``share`` of each class."""
    aside = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        members = [index for index in range(len(keys)) if labels[index] == label]
        members.sort(key=lambda index: _hash(keys[index], seed))
        aside[members[: round(share * len(members))]] = True
    return aside


def _hash(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
