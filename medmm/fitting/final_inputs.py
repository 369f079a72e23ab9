"""What the final networks are fed: of the modalities in memory, and of those read from their bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmm.bundle import read_modalities
from medmm.errors import BundleError
from medmm.fitting.candidates import Problem
from medmm.fitting.crossval import Final
from medmm.fitting.inputs import Inputs, prepare_table

READ_BACK = 200
"""Training patients whose inputs are prepared once more."""


def prepared_inputs(problem: Problem, final: Final) -> Inputs:
    """Prepare every training patient with the bundle's own modalities."""
    return Inputs(
        {
            name: problem.images[name]
            if name in problem.images
            else prepare_table(modality, problem.rows[name])
            for name, modality in final.modalities.items()
        }
    )


def check_read_back(folder: Path, rows: Mapping[str, Sequence[Any]], inputs: Inputs) -> None:
    """Check that a bundle sees in a patient what its network was trained on.

    Args:
        folder: of the bundle.
        rows: per modality of tables, what was loaded of every training patient.
        inputs: the same, as the network saw it.

    Raises:
        BundleError: if a modality that is read from the bundle prepares a patient otherwise.
    """
    for name, modality in read_modalities(folder, list(rows)).items():
        again, trained = prepare_table(modality, rows[name][:READ_BACK]), inputs.prepared[name]
        same = np.array_equal(again.array, trained.array[:READ_BACK], equal_nan=True)
        if not same or list(again.absent) != list(trained.absent[:READ_BACK]):
            raise BundleError(
                f"modality {name} prepares patients otherwise once it is read from the bundle than it did in"
                f" training, a fault of its kind {modality.kind!r}; nothing is sealed"
            )
