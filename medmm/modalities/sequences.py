"""What modalities share in a recipe: the weights to begin with, and how a sequence is summarised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from medmm.columns import Declared

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]


class Pretrained(Declared):
    """Weights to begin with.

    Attributes:
        file: safetensors, relative to the recipe; see :mod:`medmm.encoders.pretrained`.
        strict: whether every tensor of the encoder must be in the file, and no others.
        frozen: whether the encoder stays as the file left it, so that only what stands behind it is fitted;
            without augmentation its vectors are then computed once.
    """

    file: str
    strict: bool = True
    frozen: bool = False

    def fill(self, encoder: nn.Module, folder: Path) -> None:
        """Read the weights into an encoder.

        Args:
            folder: of the recipe.

        Raises:
            ConfigError: if the file is not of this encoder.
        """
        from medmm.encoders.pretrained import load_pretrained

        load_pretrained(encoder, folder / self.file, strict=self.strict)


class WarmStarted:
    """A modality whose recipe may name the weights that its encoder begins with."""

    settings: Any
    folder: Path

    @property
    def weights(self) -> Path | None:
        """The file that the recipe names."""
        wanted: Pretrained | None = self.settings.encoder.pretrained
        return None if wanted is None else self.folder / wanted.file

    @property
    def frozen(self) -> bool:
        """Whether the recipe wants the encoder as the file left it."""
        wanted: Pretrained | None = self.settings.encoder.pretrained
        return wanted is not None and wanted.frozen


class SequenceSettings(Declared):
    """How a sequence becomes an embedding.

    Attributes:
        kind: the mean of a recurrent network's states, or the [CLS] token of a small transformer.
        width: of a token and of the embedding.
        layers: recurrent layers, or transformer blocks.
        heads: of the transformer; divide the width.
        dropout: share of the embedding, and between layers, dropped at training.
        pretrained: weights to begin with; None begins at random.
    """

    kind: Literal["lstm", "gru", "transformer"] = "lstm"
    width: Count = 32
    layers: Count = 1
    heads: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    pretrained: Pretrained | None = None

    @model_validator(mode="after")
    def _divided(self) -> SequenceSettings:
        if self.kind == "transformer" and self.width % self.heads:
            raise ValueError(f"the `heads` ({self.heads}) of a transformer divide its `width` ({self.width})")
        return self
