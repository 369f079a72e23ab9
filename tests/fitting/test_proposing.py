"""A rehearsal writes the fingerprint and the plan of the patients who are trained on, and no patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from medmm import train as story
from medmm.cohort.fingerprint import rarer
from medmm.planning.fingerprint import Fingerprint, ImagePrint
from medmm.planning.machine import Machine
from medmm.planning.propose import propose
from tests.conftest import RECIPE, Said


def test_a_rehearsal_says_where_the_recipe_differs_from_the_plan(
    door: Callable[..., Said], written: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("cohort: data", f"cohort: {written}"))
    done = door("train", tmp_path, "--root", written, "--runs", runs, "--dry-run")
    assert done.code == 0, done.err
    assert "modalities.ct.shape: [16, 16, 8] in the recipe, [" in done.out
    assert "fitting.epochs: 2 in the recipe, " in done.out
    plan = json.loads((runs / "small-plan.json").read_text())
    assert len([p for p in plan["proposals"] if p["key"].startswith("modalities.ct.")]) == 5
    text = (runs / "small-fingerprint.json").read_text()
    found = json.loads(text)
    assert found["images"]["ct"]["modality"] == "CT"
    assert found["images"]["ct"]["series"] == found["images"]["ct"]["patients"] > 20
    assert 0 < found["tables"]["records"]["missing"] < 1
    patients = story.plan(tmp_path, root=written).patients
    assert found["patients"] == len(patients)
    assert not any(patient.subject_id in text or patient.pseudonym in text for patient in patients)


def test_labels_that_change_places_change_no_plan() -> None:
    """A plan counts events; who has them must not matter."""
    image = ImagePrint("MR", "intensity", patients=60)
    prints = [
        Fingerprint(60, rarer("binary", labels), Machine(None, 2), {"ct": image})
        for labels in ([0.0] * 40 + [1.0] * 20, [1.0] * 20 + [0.0] * 40)
    ]
    assert asdict(propose(prints[0])) == asdict(propose(prints[1]))


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("binary", [0, 0, 1], 1),
        ("binary", [1, 1], 0),
        ("multiclass", [0, 1, 1, 2, 2], 1),
        ("survival", [-10, 20, 30], 2),
        ("regression", [1.5, 2.5], None),
    ],
)
def test_the_rarest_class_is_counted(kind: str, labels: list[float], expected: int | None) -> None:
    assert rarer(kind, labels) == expected
