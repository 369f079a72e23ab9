"""A modality from another distribution: found by its entry point, with no line of medmm changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medmm import modality
from medmm.errors import ConfigError
from tests.conftest import Said

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

RECIPE = """
name: outside
question: Will this patient deteriorate?
intended_use: A test.
cohort: {data}
outcome: deterioration
modalities:
  records: {{kind: known_share, width: 3}}
fitting: {{epochs: 1}}
"""


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


def test_an_outside_modality_trains_scores_and_explains(
    installed: None, door: Callable[..., Said], written: Path, tmp_path: Path
) -> None:
    assert "known_share" in modality.kinds()
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=written))
    done = door("train", tmp_path, "--root", written, "--runs", tmp_path / "runs", "--smoke")
    assert done.code == 0, done.err
    bundle = next((tmp_path / "runs").glob("outside-*")) / "bundle"
    assert json.loads((bundle / "preprocess.json").read_text())["records"]["kind"] == "known_share"
    scored = door("score", bundle, "--cohort", written, "--root", written, "--out", tmp_path / "s.parquet")
    assert scored.code == 0, scored.err
    patient = (written / "records.csv").read_text().splitlines()[1].split(",")[0]
    pages = ("--patient", patient, "--out", tmp_path / "pages")
    explained = door("explain", bundle, "--cohort", written, "--root", written, *pages)
    assert explained.code == 0, explained.err


def test_without_its_distribution_the_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no modality of kind 'known_share'; installed: .*series"):
        modality.modality_class("known_share")
