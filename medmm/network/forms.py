"""The encoder of a modality in the form that a fusion takes: a vector, tokens or a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medmm.encoders.halves import FirstHalf, halves
from medmm.encoders.image import ImageEncoder
from medmm.encoders.tokens import WIDTH, ColumnTokens
from medmm.errors import ConfigError
from medmm.modality import Form, Modality
from medmm.network.fusion import Given


def encoder_for(modality: Modality, takes: Sequence[Form]) -> tuple[nn.Module, Given]:
    """Return a fresh encoder of a fitted modality, and what it gives.

    Args:
        modality: fitted.
        takes: forms that the fusion can use, the best first.

    Raises:
        ConfigError: if the modality gives none of them, or its encoder has no width.
    """
    form = next((form for form in takes if form in modality.gives), None)
    if form is None:
        raise ConfigError(f"modality {modality.name!r} gives no {' or '.join(takes)}")
    if form == "tokens":
        players = modality.players()
        tokens = ColumnTokens(players, modality.shape[0])
        return tokens, Given("tokens", (len(players), WIDTH + 1))
    encoder = modality.encoder()
    if form == "map" and isinstance(encoder, ImageEncoder):
        return _first_half(encoder, modality.shape)
    return encoder, Given("vector", (width(encoder),))


def width(module: nn.Module) -> int:
    """Return the width of what an encoder gives.

    Raises:
        ConfigError: if it has none.
    """
    found = getattr(module, "out_features", None)
    if not isinstance(found, int):
        raise ConfigError(f"{type(module).__name__} has no integer out_features")
    return found


@torch.no_grad()
def _first_half(encoder: ImageEncoder, shape: Sequence[int]) -> tuple[nn.Module, Given]:
    before, last = halves(encoder)
    training = encoder.training
    feature_map = before.eval()(torch.zeros(1, *shape))
    channels = last.eval()(feature_map).shape[1]
    before.train(training)
    last.train(training)
    half = FirstHalf(before, feature_map[0].numel(), encoder)
    return half, Given("map", tuple(feature_map.shape[1:]), last, channels)
