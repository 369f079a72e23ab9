"""The patients who are pretrained on: labelled and unlabelled ones, prepared apart, drawn as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medmm.arrays import Bools, Ints
from medmm.fitting.inputs import Inputs, Prepared


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Patients of the training split without a label of any outcome; row i of everything is patient i.

    Attributes:
        rows: per modality of a table, what was loaded of every patient, or its absence.
        images: per image modality, its prepared arrays.
        wholes: per patient, what the division keeps together: a site, a family, or the patient alone.
        beside: the same of each labelled patient.
    """

    rows: Mapping[str, Sequence[Any]]
    images: Mapping[str, Prepared]
    wholes: Sequence[str]
    beside: Sequence[str]

    def joining(self, train: Ints) -> Ints:
        """Return who joins the training patients of a split; the family and the site of its test fold do not.

        Args:
            train: rows of the labelled patients who are trained on; the others are scored, or left out.
        """
        inside = {self.beside[row] for row in train}
        outside = set(self.beside) - inside
        return np.array([k for k, whole in enumerate(self.wholes) if whole not in outside], dtype=np.int64)

    def joined(self, name: str, train: Ints) -> list[Any]:
        """Return what a table holds of those who join."""
        return [self.rows[name][place] for place in self.joining(train)]


@dataclass(frozen=True, slots=True)
class Pool:
    """Patients of several prepared sets, counted through.

    Attributes:
        parts: prepared inputs, and the rows of them that are in the pool.
    """

    parts: tuple[tuple[Inputs, Ints], ...]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    @property
    def present(self) -> Bools:
        """Return ``[patient, modality]``."""
        return np.concatenate([inputs.present[rows] for inputs, rows in self.parts])

    def only(self, names: Sequence[str]) -> Pool:
        """Return the same patients with fewer modalities."""
        return Pool(tuple((inputs.only(names), rows) for inputs, rows in self.parts))

    def kept(self, wanted: Bools) -> Pool:
        """Return the patients wanted, ``[patient]``."""
        ends = np.cumsum([len(rows) for _, rows in self.parts])[:-1]
        parts = zip(self.parts, np.split(wanted, ends), strict=True)
        return Pool(tuple((inputs, rows[chosen]) for (inputs, rows), chosen in parts))

    def batch(self, places: Ints) -> tuple[dict[str, Tensor], Tensor]:
        """Return inputs ``[patient, *shape]``, zeros where absent, and presence ``[patient, modality]``.

        Args:
            places: of the patients in the pool.
        """
        found: list[tuple[Ints, dict[str, Tensor], Tensor]] = []
        start = 0
        for inputs, rows in self.parts:
            mine = np.flatnonzero((places >= start) & (places < start + len(rows)))
            if len(mine):
                found.append((mine, *inputs.batch(rows[places[mine] - start])))
            start += len(rows)
        back = torch.from_numpy(np.argsort(np.concatenate([mine for mine, _, _ in found])))
        values = {name: torch.cat([part[name] for _, part, _ in found])[back] for name in found[0][1]}
        return values, torch.cat([present for _, _, present in found])[back]

    def rows_of(self, name: str) -> Tensor:
        """Return the vectors of a table of all who have it, ``[stored, feature]``."""
        alone = self.only([name])
        return alone.batch(np.flatnonzero(alone.present[:, 0]))[0][name]
