"""The contract that every modality fulfils, and how modalities are found.

A new modality is one file with one class and one entry point in the group ``medmm.modalities``; nothing
in medmm is edited for it.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Self

from medmm.columns import Declared, FieldSpec, ImageSpec, ResultSpec
from medmm.errors import ConfigError
from medmm.sample import Player, Source

if TYPE_CHECKING:
    from torch import nn

    from medmm.arrays import Float32

Declaration = Mapping[str, FieldSpec] | Mapping[str, ResultSpec] | ImageSpec
"""What the cohort declares of a block: its fields, its result codes, or its images."""


class Modality(ABC):
    """One kind of input: read, prepared, encoded and named.

    Instances are immutable: ``fit`` returns a fitted copy. Nothing here imports torch until
    ``encoder`` is called, so that scoring stays light.

    Attributes:
        kind: the word by which a recipe asks for it; equals the entry point's name.
        Settings: the pydantic model that validates its block of a recipe.
        name: the block's name in cohort and recipe ("zones", "records").
        settings: the validated block of the recipe.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[Declared]]

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        self.name = name
        self.settings = settings
        self.declaration = declaration

    @abstractmethod
    def load(self, source: Source) -> Any:
        """Read one patient's source: pixels for a series, the row itself for a table.

        Raises:
            DicomRefusal: if the series must not become an array.
        """

    @abstractmethod
    def fit(self, loaded: Iterable[Any]) -> Self:
        """Return a copy fitted on the loaded sources of the training split, and on no others."""

    @abstractmethod
    def transform(self, loaded: Any) -> Float32:
        """Return what the network sees of one patient; the same alone, in a batch, in any order."""

    @abstractmethod
    def players(self) -> tuple[Player, ...]:
        """Return the Shapley players of the transformed vector; empty for an image."""

    @abstractmethod
    def encoder(self) -> nn.Module:
        """Return a fresh torch encoder ``[batch, *shape of transform] → [batch, out_features]``.

        The module has an integer attribute ``out_features``.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything fitted, as JSON values; ``restore`` is its inverse."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return a copy with the fitted state of :meth:`state`."""


@cache
def _registered() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group="medmm.modalities")}


def kinds() -> list[str]:
    """Return the modality kinds that are installed, sorted."""
    return sorted(_registered())


@cache
def modality_class(kind: str) -> type[Modality]:
    """Return the class of a modality kind.

    Raises:
        ConfigError: if no installed package offers the kind.
    """
    registered = _registered()
    if kind not in registered:
        near = difflib.get_close_matches(kind, registered, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(kinds())}"
        raise ConfigError(f"no modality of kind {kind!r}; {hint}")
    loaded: type[Modality] = registered[kind].load()
    return loaded
