"""What is judged: what every model said of the patients out-of-fold, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmm.arrays import Bools, Float64
from medmm.fitting.crossval import OutOfFold
from medmm.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Predictions:
    """Row i of everything is patient i.

    Attributes:
        recipe: what was fitted, and how it is compared.
        out_of_fold: every model's logits, of every repeat.
        labels: ``[patient]``, 0 or 1; or as the outcomes' kinds say, ``[patient]`` or ``[patient, task]``.
        present: ``[patient, modality]`` in the order of ``names``.
        names: the modalities.
        images: those whose worth is asked for.
    """

    recipe: Recipe
    out_of_fold: OutOfFold
    labels: Float64
    present: Bools
    names: Sequence[str]
    images: Sequence[str]

    @property
    def imaged(self) -> Bools:
        """Who has every image, ``[patient]``."""
        return np.asarray(self.present[:, [self.names.index(image) for image in self.images]].all(axis=1))
