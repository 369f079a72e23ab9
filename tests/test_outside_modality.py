"""A modality from another distribution: found by its entry point, with no line of medmm changed.

It stands beside an ECG and notes, so that one run follows all three from their source to a patient's page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medmm import modality
from medmm.errors import ConfigError
from tests.conftest import Said
from tests.modalities.test_waveform import recording

MODULE = '''
"""How much is known of a patient: the share of fields with a value."""

import numpy as np

from medmm.columns import Declared, Status
from medmm.modality import Modality
from medmm.sample import Player


class Settings(Declared):
    width: int = 4


class Known(Modality):
    kind = "known_share"
    Settings = Settings

    def load(self, source):
        return source

    def fit(self, loaded):
        return self

    def transform(self, loaded):
        known = [value.status is Status.KNOWN for value in loaded.values()]
        return np.array([sum(known) / len(known), not any(known)], np.float32)

    @property
    def shape(self):
        return (2,)

    def players(self):
        return (Player(next(iter(self.declaration)), "share of fields known", (0, 1), 1),)

    def encoder(self):
        from torch import nn

        layer = nn.Linear(2, self.settings.width)
        layer.out_features = self.settings.width
        return layer

    def state(self):
        return {}

    def restore(self, state):
        return self
'''

COHORT = """
name: outside
subjects: {table: people.csv, id: patient_id}
prediction_time: {table: people.csv, column: seen_at, resolution: day}
same_day: {index_study: known}
outcomes:
  ill: {table: people.csv, positive: 1}
records:
  table: people.csv
  fields:
    patient_id: {role: key}
    seen_at: {role: time, kind: date}
    ill: {role: outcome}
    age: {role: input, kind: number, unit: a}
notes:
  table: notes.csv
  columns: {id: patient_id, text: text, time: written_at}
  input: {take: last}
images:
  ecg: {dir: dicom, modality: ECG, label: Resting ECG}
splits: {folds: 2}
"""
RECIPE = """
name: outside
question: Is this patient ill?
intended_use: A test.
cohort: .
outcome: ill
modalities:
  records: {kind: known_share, width: 3}
  ecg: {kind: waveform, channels: 2, seconds: 2, encoder: {kind: cnn, channels: [4, 8]}}
  notes: {kind: notes, length: 8, min_patients: 3, encoder: {kind: lstm, width: 4}}
fitting: {epochs: 1}
comparison: {resamples: 200}
final_model: refit
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-four patients, some without an ECG or a note, and a recipe."""
    (tmp_path / "dicom").mkdir()
    people, notes = ["patient_id,seen_at,age,ill"], ["patient_id,written_at,text"]
    for number in range(24):
        people.append(f"P{number},2001-03-02,{40 + number},{number % 2}")
        if number % 8:
            recording(tmp_path / "dicom" / f"{number}.dcm", scale=500.0 + 40 * number, patient=f"P{number}")
        if number % 5:
            notes.append(
                f"P{number},2001-03-01,Came with {('cough', 'fever')[number % 2]} and Surname{number}"
            )
    (tmp_path / "people.csv").write_text("\n".join(people) + "\n")
    (tmp_path / "notes.csv").write_text("\n".join(notes) + "\n")
    (tmp_path / "cohort.yaml").write_text(COHORT)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another distribution on the path, as an installer would leave it."""
    site = tmp_path / "site-packages"
    metadata = site / "known_share-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "known_share.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: known-share\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[medmm.modalities]\nknown_share = known_share:Known\n")
    monkeypatch.syspath_prepend(site)
    forget()
    yield
    forget()
    sys.modules.pop("known_share", None)


def forget() -> None:
    modality._registered.cache_clear()
    modality.modality_class.cache_clear()


def test_an_outside_modality_an_ecg_and_notes_go_from_the_archive_to_a_page(
    installed: None, door: Callable[..., Said], folder: Path
) -> None:
    assert "known_share" in modality.kinds()
    done = door("train", folder, "--root", folder, "--runs", folder / "runs", "--smoke")
    assert done.code == 0, done.err
    bundle = next((folder / "runs").glob("outside-*")) / "bundle"
    state = json.loads((bundle / "preprocess.json").read_text())
    assert state["records"]["kind"] == "known_share"
    vocabulary = state["notes"]["state"]["tokenizer"]["model"]["vocab"]
    assert "came" in vocabulary
    scored = door("score", bundle, "--cohort", folder, "--root", folder, "--out", folder / "scores.parquet")
    assert scored.code == 0, scored.err
    pages = ("--patient", "P6", "--out", folder / "pages")
    explained = door("explain", bundle, "--cohort", folder, "--root", folder, *pages)
    assert explained.code == 0, explained.err
    page = next((folder / "pages").glob("*.html")).read_text()
    assert "Resting ECG" in page
    assert "1 note" in page
    assert "share of fields known" in page or "Age" in page or "age" in page
    assert "Surname" not in page
    assert "cough and" not in page


def test_without_its_distribution_the_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no modality of kind 'known_share'; installed: .*series"):
        modality.modality_class("known_share")
