"""The encoders of images, from MONAI's blocks and networks, with group norm throughout.

Batch norm would make a patient's score depend on the batch, and training with few large volumes per
step wrong; group norm (Wu & He 2018) knows one patient only. Every encoder ends in global average
pooling, so that its width does not depend on the image's shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

GROUPS = 8
"""Groups of a group norm; fewer where the channels do not divide."""

Kind = Literal["cnn", "densenet121", "resnet10", "resnet18"]


class ImageEncoder(nn.Module):
    """A feature extractor, global average pooling and dropout.

    Args:
        features: ``[batch, channel, *shape] → [batch, out_features, *smaller]``.
        out_features: width of the embedding.
        dropout: share of the embedding dropped at training, in [0, 1).
    """

    def __init__(self, features: nn.Module, out_features: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.out_features = out_features

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings ``[batch, out_features]`` of images ``[batch, channel, *shape]``."""
        pooled = self.features(image).flatten(2).mean(dim=2)
        dropped: Tensor = self.dropout(pooled)
        return dropped


def image_encoder(
    kind: Kind, *, spatial_dims: int, in_channels: int, channels: Sequence[int], dropout: float
) -> ImageEncoder:
    """Return a fresh image encoder.

    Args:
        kind: "cnn": one block (3-voxel convolution of stride 2, group norm, ReLU) per entry of
            ``channels``, 0.07 M parameters for one input channel and (16, 32, 64); the others are
            MONAI's networks.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: of the "cnn"; the last is the width of the embedding.
        dropout: share of the embedding dropped at training, in [0, 1).
    """
    if kind == "cnn":
        features, width = _cnn(spatial_dims, in_channels, channels)
    elif kind == "densenet121":
        features, width = _densenet121(spatial_dims, in_channels)
    else:
        features, width = _resnet(kind, spatial_dims, in_channels)
    return ImageEncoder(features, width, dropout)


def _norm(channels: int) -> tuple[str, dict[str, Any]]:
    return ("group", {"num_groups": math.gcd(GROUPS, channels)})


def _cnn(spatial_dims: int, in_channels: int, channels: Sequence[int]) -> tuple[nn.Module, int]:
    from monai.networks.blocks import Convolution

    widths = [in_channels, *channels]
    blocks = [
        Convolution(spatial_dims, before, after, strides=2, norm=_norm(after), act="RELU")
        for before, after in pairwise(widths)
    ]
    return nn.Sequential(*blocks), widths[-1]


def _densenet121(spatial_dims: int, in_channels: int) -> tuple[nn.Module, int]:
    from monai.networks.nets import DenseNet121

    network = DenseNet121(spatial_dims, in_channels, out_channels=1, norm=_norm(GROUPS))
    return nn.Sequential(network.features, nn.ReLU()), network.class_layers.out.in_features


def _resnet(kind: str, spatial_dims: int, in_channels: int) -> tuple[nn.Module, int]:
    from monai.networks import nets

    make = {"resnet10": nets.resnet10, "resnet18": nets.resnet18}[kind]
    net = make(
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        norm=_norm(GROUPS),
        feed_forward=False,
    )
    _without_batch_norm(net)
    parts = [net.conv1, net.bn1, net.act, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4]
    return nn.Sequential(*parts), 512


def _without_batch_norm(module: nn.Module) -> None:
    """Put group norms in the place of batch norms: MONAI's residual shortcuts take no ``norm``."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            groups = math.gcd(GROUPS, child.num_features)
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _without_batch_norm(child)
