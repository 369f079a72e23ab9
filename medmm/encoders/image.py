"""The encoders of images, from MONAI's blocks and networks, with group norm throughout.

Batch norm would make a patient's score depend on the batch, and training with few large volumes per
step wrong; group norm (Wu & He 2018) knows one patient only, and so does the layer norm of transformers.
Every encoder ends in global average pooling, so that its width does not depend on the image's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from medmm.encoders.vision_transformer import Patches, swin, vit

GROUPS = 8
"""Groups of a group norm; fewer where the channels do not divide."""

Kind = Literal["cnn", "densenet121", "resnet10", "resnet18", "resnet50", "efficientnet-b0", "vit", "swin"]

Features: TypeAlias = tuple[nn.Module, int, dict[str, str]]
"""A feature extractor, the width of what it gives, and where its tensors come from: the start of a tensor's
name here → its start in MONAI's network of that kind."""


class ImageEncoder(nn.Module):
    """A feature extractor, global average pooling and dropout.

    Args:
        features: ``[batch, channel, *shape] → [batch, out_features, *smaller]``.
        out_features: width of the embedding.
        dropout: share of the embedding dropped at training, in [0, 1).
        published_as: the start of a tensor's name here → its start in MONAI's network of the kind, so that
            weights published for that network can be read (:mod:`medmm.encoders.pretrained`).
    """

    def __init__(
        self,
        features: nn.Module,
        out_features: int,
        dropout: float,
        published_as: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.out_features = out_features
        self.published_as = dict(published_as or {})

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings ``[batch, out_features]`` of images ``[batch, channel, *shape]``."""
        pooled = self.features(image).flatten(2).mean(dim=2)
        dropped: Tensor = self.dropout(pooled)
        return dropped


def image_encoder(
    kind: Kind,
    *,
    spatial_dims: int,
    in_channels: int,
    channels: Sequence[int],
    dropout: float,
    patches: Patches | None = None,
) -> ImageEncoder:
    """Return a fresh image encoder.

    Args:
        kind: "cnn": one block (3-voxel convolution of stride 2, group norm, ReLU) per entry of
            ``channels``, 0.07 M parameters for one input channel and (16, 32, 64); the others are
            MONAI's networks.
        spatial_dims: 2 or 3; 1 for a waveform, of the "cnn" and the ResNets.
        in_channels: channels of the image.
        channels: of the "cnn"; the last is the width of the embedding.
        dropout: share of the embedding dropped at training, in [0, 1).
        patches: of the "vit", which needs them.
    """
    makers: dict[str, Callable[[], Features]] = {
        "cnn": lambda: _cnn(spatial_dims, in_channels, channels),
        "densenet121": lambda: _densenet121(spatial_dims, in_channels),
        "efficientnet-b0": lambda: _efficientnet(spatial_dims, in_channels),
        "vit": lambda: vit(in_channels, patches or Patches((64,) * spatial_dims)),
        "swin": lambda: swin(in_channels, spatial_dims),
    }
    make = makers.get(kind, lambda: _resnet(kind, spatial_dims, in_channels))
    features, width, names = make()
    return ImageEncoder(features, width, dropout, {f"features.{own}": given for own, given in names.items()})


def _norm(channels: int) -> tuple[str, dict[str, Any]]:
    return ("group", {"num_groups": math.gcd(GROUPS, channels)})


def _cnn(spatial_dims: int, in_channels: int, channels: Sequence[int]) -> Features:
    from monai.networks.blocks import Convolution

    widths = [in_channels, *channels]
    blocks = [
        Convolution(spatial_dims, before, after, strides=2, norm=_norm(after), act="RELU")
        for before, after in pairwise(widths)
    ]
    return nn.Sequential(*blocks), widths[-1], {}


def _densenet121(spatial_dims: int, in_channels: int) -> Features:
    from monai.networks.nets import DenseNet121

    network = DenseNet121(spatial_dims, in_channels, out_channels=1, norm=_norm(GROUPS))
    width: int = network.class_layers.out.in_features
    return nn.Sequential(network.features, nn.ReLU()), width, {"0.": "features."}


def _resnet(kind: str, spatial_dims: int, in_channels: int) -> Features:
    from monai.networks import nets

    make = {"resnet10": nets.resnet10, "resnet18": nets.resnet18, "resnet50": nets.resnet50}[kind]
    net = make(
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        norm=_norm(GROUPS),
        feed_forward=False,
    )
    _without_batch_norm(net)
    parts = ["conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    width = 2048 if kind == "resnet50" else 512
    return _in_row(net, parts), width, {f"{i}.": f"{part}." for i, part in enumerate(parts)}


def _efficientnet(spatial_dims: int, in_channels: int) -> Features:
    from monai.networks.nets import EfficientNetBN

    net = EfficientNetBN(
        "efficientnet-b0",
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        pretrained=False,
        norm=_norm(GROUPS),
    )
    net.set_swish(memory_efficient=False)  # the other one is a custom autograd function, which has no graph
    parts = ["_conv_stem_padding", "_conv_stem", "_bn0", "_swish", "_blocks"]
    parts += ["_conv_head_padding", "_conv_head", "_bn1", "_swish"]
    width: int = net._fc.in_features
    return _in_row(net, parts), width, {f"{i}.": f"{part}." for i, part in enumerate(parts)}


def _in_row(net: nn.Module, parts: Sequence[str]) -> nn.Sequential:
    return nn.Sequential(*(getattr(net, part) for part in parts))


def _without_batch_norm(module: nn.Module) -> None:
    """Put group norms in the place of batch norms: MONAI's residual shortcuts take no ``norm``."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            groups = math.gcd(GROUPS, child.num_features)
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _without_batch_norm(child)
