from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOY = """
from __future__ import annotations
import numpy as np
from medmm.columns import Declared
from medmm.modality import Modality

class Toy(Modality):
    kind = "toy"
    Settings = Declared
    def load(self, source): return source
    def fit(self, loaded): return self
    def transform(self, loaded): return np.ones(3, np.float32)
    @property
    def shape(self): return (3,)
    def players(self): return ()
    def encoder(self):
        from torch import nn
        return nn.Linear(3, 2)
    def state(self): return {}
    def restore(self, state): return self
"""

USE = """
import torch
from medmm.modality import kinds, modality_class
from medmm.network.network import build
toy = modality_class("toy")("toys", modality_class("toy").Settings(), {})
network = build({"toys": toy}, "concat")
print("toy" in kinds(), tuple(network({"toys": torch.ones(4, 3)}, torch.ones(4, 1)).shape))
"""


MISTAKE = """
from medmm.modality import modality_class
try:
    modality_class({kind!r})
except ValueError as error:
    print(error)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the toy package as an installer leaves it."""
    (tmp_path / "toy_modality.py").write_text(TOY)
    info = tmp_path / "toy_modality-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-modality\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medmm.modalities]\ntoy = toy_modality:Toy\n")
    return tmp_path


def run(code: str, installed: Path) -> str:
    path = f"{installed}:{Path(__file__).parents[1]}"
    env = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_a_modality_of_another_package_is_found_and_joins_a_network(installed: Path) -> None:
    assert run(USE, installed) == "True (4,)"


def test_an_unknown_kind_is_named_with_its_neighbour(installed: Path) -> None:
    assert run(MISTAKE.format(kind="tyo"), installed) == "no modality of kind 'tyo'; did you mean 'toy'?"
    assert "no modality of kind 'quux'; installed: " in run(MISTAKE.format(kind="quux"), installed)


def test_every_kind_is_the_word_of_its_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    for kind, place in project["project"]["entry-points"]["medmm.modalities"].items():
        module, name = place.split(":")
        assert getattr(importlib.import_module(module), name).kind == kind
