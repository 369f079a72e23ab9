"""The same patients under other settings: what a search tries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medmm.columns import ImageSpec
from medmm.fitting.candidates import Problem
from medmm.fitting.inputs import prepare_images
from medmm.modality import Declaration, Modality
from medmm.recipe import varied
from medmm.sample import Absence, Source

KEPT = 8
"""Variants that stay open at once."""


@dataclass
class Variants:
    """A problem that can be had under other settings; it can be sent to another process.

    Attributes:
        problem: under the recipe's own settings.
        declarations: what the cohort declares of its blocks.
        sources: per modality, what the cohort has of each patient, in the problem's order.
        cache: folder of prepared images; an image is prepared again only for settings that change it.
    """

    problem: Problem
    declarations: Mapping[str, Declaration]
    sources: Mapping[str, Sequence[Source]]
    cache: Path
    _open: dict[str, Problem] = field(default_factory=dict, repr=False)

    def of(self, chosen: Mapping[str, Any]) -> Problem:
        """Return the problem under the chosen settings, by dotted path of the recipe.

        Raises:
            ConfigError: if they cannot be used together.
        """
        key = json.dumps(chosen, sort_keys=True)
        if key not in self._open:
            if len(self._open) >= KEPT:
                self._open.pop(next(iter(self._open)))
            self._open[key] = self._made(chosen)
        return self._open[key]

    def _made(self, chosen: Mapping[str, Any]) -> Problem:
        problem, recipe = self.problem, varied(self.problem.recipe, chosen)
        modalities = recipe.build(dict(self.declarations))
        rows, images = dict(problem.rows), dict(problem.images)
        for name, modality in modalities.items():
            if recipe.modalities[name] == problem.recipe.modalities[name]:
                continue
            if isinstance(modality.declaration, ImageSpec):
                images[name] = prepare_images(modality, self.sources[name], self.cache)
            else:
                rows[name] = _rows(modality, self.sources[name])
        return replace(problem, recipe=recipe, modalities=modalities, rows=rows, images=images, searched=None)


def _rows(modality: Modality, sources: Sequence[Source]) -> list[Any]:
    return [source if isinstance(source, Absence) else modality.load(source) for source in sources]
