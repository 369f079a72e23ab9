"""The contract that every modality fulfils, and how modalities are found.

A new modality is one file with one class and one entry point in the group ``medmm.modalities``; nothing
in medmm is edited for it.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from medmm.columns import Declared, FieldSpec, ImageSpec, NotesSpec, ResultSpec
from medmm.errors import ConfigError
from medmm.sample import Player, Source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medmm.arrays import Float32

Declaration = Mapping[str, FieldSpec] | Mapping[str, ResultSpec] | ImageSpec | NotesSpec
"""What the cohort declares of a block: its fields, its result codes, its images, or its notes."""

Form: TypeAlias = Literal["vector", "tokens", "map"]
"""What an encoder can give a fusion: one vector, one token per field, or a feature map of an image."""


class Modality(ABC):
    """One kind of input: read, prepared, encoded and named.

    Instances are immutable: ``fit`` returns a fitted copy. Nothing here imports torch until
    ``encoder`` is called, so that scoring stays light.

    Attributes:
        kind: the word by which a recipe asks for it; equals the entry point's name.
        Settings: the pydantic model that validates its block of a recipe.
        gives: what its encoder can give a fusion besides one vector: ``tokens``, one per player of its row;
            ``map``, where the encoder is a :class:`medmm.encoders.image.ImageEncoder`.
        transform_version: raised whenever ``transform`` would give other numbers; part of the cache's key.
        name: the block's name in cohort and recipe ("zones", "records").
        settings: the validated block of the recipe.
        folder: of the recipe; relative paths of the settings begin there.
        pictured: whether what the network sees is an image that a page can draw, with a heat map over it.
        tabular: whether each column of the transformed vector means something alone, so that trees and a
            logistic regression can be fitted on it beside the network.
    """

    folder: Path = Path()
    pictured: ClassVar[bool] = False
    tabular: ClassVar[bool] = False
    kind: ClassVar[str]
    Settings: ClassVar[type[Declared]]
    transform_version: ClassVar[int] = 1
    gives: ClassVar[tuple[Form, ...]] = ("vector",)

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        self.name = name
        self.settings = settings
        self.declaration = declaration

    @abstractmethod
    def load(self, source: Source) -> Any:
        """Read one patient's source: pixels for a DICOM series, the row itself for a table.

        The cohort hands over, by block: ``records`` and ``biomarkers`` a row of
        :class:`~medmm.columns.Value` by key; ``series`` a :class:`~medmm.sample.TimedSeries` of the results
        declared with ``series: true``; ``notes`` a :class:`~medmm.sample.NotesSource`, where the cohort
        declares ``notes.input``; an image block a :class:`~medmm.sample.SeriesSource`. Each but the rows
        may be an :class:`~medmm.sample.Absence` instead ("no_results", "no_notes", "no_series", …).

        Raises:
            DicomRefusal: if the series must not become an array.
        """

    @abstractmethod
    def fit(self, loaded: Iterable[Any]) -> Self:
        """Return a copy fitted on the loaded sources of the training split, and on no others."""

    @abstractmethod
    def transform(self, loaded: Any) -> Float32:
        """Return what the network sees of one patient; the same alone, in a batch, in any order."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of what ``transform`` returns, known once fitted."""

    @property
    def splits(self) -> tuple[int, ...]:
        """Widths of an ensemble's parts of the transformed vector; empty where all share one input."""
        return ()

    def warnings(self, loaded: Any) -> tuple[str, ...]:
        """Return what is unusual about one patient's source, in the words of labels, never of values."""
        return ()

    def warm_start(self, encoder: nn.Module) -> None:  # noqa: B027 (most modalities begin at random)
        """Put pretrained weights into a fresh encoder before it is fitted; nothing by default."""

    @property
    def weights(self) -> Path | None:
        """The file that :meth:`warm_start` reads; a run that was stopped goes on with the same bytes only."""
        return None

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as its pretrained weights left it."""
        return False

    @property
    def augments(self) -> bool:
        """Whether :meth:`augment` changes anything."""
        return type(self).augment is not Modality.augment

    def augment(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return a randomly varied training batch ``[batch, *shape]``; the generator is all the chance."""
        return batch

    @abstractmethod
    def players(self) -> tuple[Player, ...]:
        """Return the Shapley players of the transformed vector; empty for an image."""

    @abstractmethod
    def encoder(self) -> nn.Module:
        """Return a fresh torch encoder ``[batch, *shape of transform] → [batch, out_features]``.

        The module has an integer attribute ``out_features``.
        """

    @property
    def learning_rate_multiplier(self) -> float:
        """Learning rate of the encoder relative to the recipe's ``fitting.learning_rate``."""
        return 1.0

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything fitted, as JSON values; ``restore`` is its inverse."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return a copy with the fitted state of :meth:`state`."""


class Stacked(Modality):
    """One modality as the members of a fold ensemble see it, each fitted on its own training split.

    A patient's vector is the members' vectors end to end, and a field's player owns its columns in
    all of them, so that an ensemble looks like one network to scoring and to explanation.
    """

    kind = "stacked"
    Settings = Declared

    def __init__(self, members: Sequence[Modality]) -> None:
        first = members[0]
        super().__init__(first.name, first.settings, first.declaration)
        self.members = tuple(members)

    def load(self, source: Source) -> Any:
        """Read one patient's source; see :meth:`Modality.load`."""
        return self.members[0].load(source)

    def fit(self, loaded: Iterable[Any]) -> Self:
        """Refuse: the members have been fitted, each on its own split.

        Raises:
            TypeError: always.
        """
        raise TypeError("the members of an ensemble are fitted before they are stacked")

    def transform(self, loaded: Any) -> Float32:
        """Return ``[sum of the members' features]``."""
        return np.concatenate([member.transform(loaded) for member in self.members])

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the members' features end to end."""
        return (sum(self.splits),)

    @property
    def splits(self) -> tuple[int, ...]:
        """The width of each member's part."""
        return tuple(member.shape[0] for member in self.members)

    def warnings(self, loaded: Any) -> tuple[str, ...]:
        """Return each warning that any member gives, once."""
        return tuple(dict.fromkeys(text for member in self.members for text in member.warnings(loaded)))

    def players(self) -> tuple[Player, ...]:
        """Return the members' players merged; a field is missing where it is for the first member."""
        starts = np.cumsum([0, *self.splits[:-1]]).tolist()
        merged = []
        for parts in zip(*(member.players() for member in self.members), strict=True):
            columns = tuple(
                c + start for part, start in zip(parts, starts, strict=True) for c in part.columns
            )
            merged.append(replace(parts[0], columns=columns))
        return tuple(merged)

    def encoder(self) -> nn.Module:
        """Refuse: each member's network has an encoder of its own.

        Raises:
            TypeError: always.
        """
        raise TypeError("an ensemble's encoders are made per member")

    def state(self) -> dict[str, Any]:
        """Return the members' states."""
        return {"members": [member.state() for member in self.members]}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return a copy with the members' states of :meth:`state`."""
        first = self.members[0]
        return type(self)([first.restore(member) for member in state["members"]])


def stacked(members: Sequence[Modality]) -> Modality:
    """Return one modality for an ensemble: the shared one where all states are equal, else the stack."""
    first, *others = members
    return first if all(other.state() == first.state() for other in others) else Stacked(members)


def restored(unfitted: Modality, state: Mapping[str, Any]) -> Modality:
    """Return the fitted modality of a state, be it one's or an ensemble's (:func:`stacked`)."""
    return Stacked([unfitted]).restore(state) if "members" in state else unfitted.restore(state)


def present(players: Sequence[Player], vector: Float32) -> bool:
    """Tell whether a transformed patient has the modality: an image always, a table if any field is known.

    Args:
        players: the modality's players; empty for an image.
        vector: what ``transform`` returned, ``[feature]`` for a table.
    """
    return not players or any(vector[player.missing_column] == 0 for player in players)


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
