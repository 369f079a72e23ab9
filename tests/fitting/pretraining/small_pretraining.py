"""A synthetic pair of an image and a table that share one hidden number: what tests of pretraining learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medmm.columns import FieldSpec, ImageSpec, Status, Value
from medmm.fitting.candidates import Problem
from medmm.fitting.inputs import Prepared
from medmm.fitting.pretraining.pool import Unlabelled
from medmm.recipe import Recipe
from medmm.sample import TableRow

FIELDS = {
    "age": FieldSpec(role="input", kind="number"),
    "pulse": FieldSpec(role="input", kind="number"),
    "unit": FieldSpec(role="input", kind="category"),
    "fever": FieldSpec(role="input", kind="flag"),
}
SIZE = 8


def recipe(objective: str = "contrastive", **changes: Any) -> Recipe:
    """Return a recipe of a small image and a table, which pretrains."""
    augment = {"noise": 0.05} if changes.pop("augmented", True) else {}
    settings = {"objective": objective, "epochs": 3, "batch_size": 32, "learning_rate": 0.005}
    settings |= changes.pop("settings", {})
    encoder = {"kind": "cnn", "channels": [8, 16]}
    values = {
        "name": "small",
        "question": "?",
        "intended_use": "a test",
        "cohort": "x",
        "outcome": "ill",
        "modalities": {
            "ct": {"kind": "image", "shape": [SIZE, SIZE], "encoder": encoder, "augment": augment},
            "records": {"kind": "records"},
        },
        "fitting": {"epochs": 1},
        "pretraining": settings,
    }
    return Recipe.model_validate(values | changes)


def drawn(patients: int, seed: int) -> tuple[list[TableRow], Prepared, np.ndarray]:
    """Return rows, images and the hidden number; one patient in eight lacks the image, one cell in ten."""
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(-2, 2, patients)
    rows = [
        {
            "age": _number(60 + 10 * z + 0.3 * rng.normal(), rng),
            "pulse": _number(80 - 10 * z + 0.3 * rng.normal(), rng),
            "unit": Value("high" if z > 0 else "low"),
            "fever": Value("yes" if z > 1 else "no"),
        }
        for z in hidden
    ]
    place = np.arange(SIZE)
    stripes = np.sin((1 + hidden[:, None]) * place)[:, None, None, :] * np.ones((1, 1, SIZE, 1))
    array = (stripes * (1.5 + hidden[:, None, None, None])).astype(np.float16)
    index = np.where(np.arange(patients) % 8 == 7, -1, np.arange(patients))
    return rows, Prepared(array, index, tuple("no_series" if i < 0 else "" for i in index)), hidden


def _number(number: float, rng: np.random.Generator) -> Value:
    return Value(None, Status.MISSING) if rng.random() < 0.1 else Value(float(number), text=f"{number}")


def problem(
    work: Path, asked: Recipe | None = None, *, patients: int = 64, unlabelled: int = 0, **changes: Any
) -> Problem:
    """Return the problem; the label follows the hidden number."""
    asked = asked or recipe()
    rows, images, hidden = drawn(patients, 3)
    others = None
    if unlabelled:
        more, pictures, _ = drawn(unlabelled, 4)
        wholes = [f"{place}" for place in range(patients + unlabelled)]
        others = Unlabelled({"records": more}, {"ct": pictures}, wholes[patients:], wholes[:patients])
    declared = {"ct": ImageSpec(dir="dicom", modality="CT"), "records": FIELDS}
    values: dict[str, Any] = {
        "recipe": asked,
        "modalities": asked.build(declared),
        "rows": {"records": rows},
        "images": {"ct": images},
        "labels": (hidden > 0).astype(float),
        "pseudonyms": [f"{i:016x}" for i in range(patients)],
        "keys": [f"{i:04}" for i in range(patients)],
        "work": work,
        "unlabelled": others,
    }
    return Problem(**(values | changes))
