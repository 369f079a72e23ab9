from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from medmm.attribution.game import Encoded, Reference
from medmm.attribution.reference import population
from medmm.sample import Player

WIDTH = 3
FEATURES = {"records": 7, "biomarkers": 4}
NAMES = ("scan", "records", "biomarkers")


class TinyModel:
    """A random late-fusion network in numpy: tanh encoders, absent embeddings, a hidden fusion layer."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.encoders = {name: rng.normal(size=(width, WIDTH)) for name, width in FEATURES.items()}
        self.absent = rng.normal(size=(len(NAMES), WIDTH))
        self.hidden = rng.normal(size=(len(NAMES) * (WIDTH + 1), 8))
        self.head = rng.normal(size=8)
        self.encoded = 0

    def encode(self, name: str, x: np.ndarray) -> np.ndarray:
        self.encoded += len(x)
        return np.tanh(x @ self.encoders[name]).astype(np.float32)

    def fuse(self, embeddings: Mapping[str, np.ndarray], present: np.ndarray) -> np.ndarray:
        parts = [
            np.where(present[:, i : i + 1], embeddings[name], self.absent[i]) for i, name in enumerate(NAMES)
        ]
        joined = np.concatenate([*parts, present.astype(np.float64)], axis=1)
        return np.tanh(joined @ self.hidden) @ self.head


def fields(name: str) -> tuple[Player, ...]:
    """Return the players of a table: a number, and a one-hot category, each with its missing indicator."""
    players = [Player("age", "Age", (0, 1), 1), Player("stage", "Stage", (2, 3, 4, 5, 6), 6)]
    if name == "biomarkers":
        players = [Player("psa", "PSA", (0, 1), 1), Player("crp", "CRP", (2, 3), 3)]
    return tuple(players)


def rows(rng: np.random.Generator, name: str, count: int) -> np.ndarray:
    """Return random rows; a missing field has zeros and its indicator."""
    found = rng.normal(size=(count, FEATURES[name]))
    for player in fields(name):
        missing = rng.random(count) < 0.3
        found[np.ix_(missing, player.columns)] = 0
        found[:, player.missing_column] = missing
    return found.astype(np.float32)


def drawn(seed: int, count: int = 6) -> tuple[TinyModel, Encoded, Reference]:
    """Return a model, one patient and a reference; modalities are absent at random."""
    rng = np.random.default_rng(seed)
    model = TinyModel(seed)
    tables = {name: rows(rng, name, count + 1) for name in FEATURES}
    known = [np.any([r[:, p.missing_column] < 1 for p in fields(n)], axis=0) for n, r in tables.items()]
    present = np.stack([rng.random(count + 1) < 0.7, *known], axis=1)
    embeddings = {
        "scan": rng.normal(size=(count + 1, WIDTH)).astype(np.float32),
        **{name: model.encode(name, table) for name, table in tables.items()},
    }
    patient = Encoded(
        {n: embeddings[n][0] for i, n in enumerate(NAMES) if present[0, i]},
        {n: r[0] for n, r in tables.items()},
        present[0],
    )
    reference = population(
        NAMES, present[1:], {n: e[1:] for n, e in embeddings.items()}, {n: r[1:] for n, r in tables.items()}
    )
    model.encoded = 0
    return model, patient, reference


@pytest.fixture
def tiny() -> tuple[TinyModel, Encoded, Reference]:
    """A model, a patient who has everything, and a reference of 6."""
    seed = next(s for s in range(100) if drawn(s)[1].present.all())
    return drawn(seed)
