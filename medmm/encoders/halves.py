"""An image encoder in two halves: up to its last block, and the last block.

A fusion that turns a feature map puts the last block inside itself; the first half is all that an image
has to be encoded with, however many coalitions of an explanation follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medmm.encoders.image import ImageEncoder


class FirstHalf(nn.Module):
    """The layers before the last block; its feature map travels flat, ``[batch, channel · places]``.

    Args:
        layers: ``[batch, channel, *shape] → [batch, channel, *smaller]``.
        out_features: numbers of the map.
        whole: the encoder that was cut; it shares the layers, so weights put into it reach both halves.
    """

    def __init__(self, layers: nn.Module, out_features: int, whole: ImageEncoder) -> None:
        super().__init__()
        self.layers = layers
        self.out_features = out_features
        self._whole = (whole,)  # in a tuple, so that its parameters are not counted twice

    @property
    def whole(self) -> ImageEncoder:
        """The encoder that was cut."""
        return self._whole[0]

    def forward(self, image: Tensor) -> Tensor:
        """Return the map ``[batch, out_features]`` of images ``[batch, channel, *shape]``."""
        feature_map: Tensor = self.layers(image)
        return feature_map.flatten(1)


def halves(encoder: ImageEncoder) -> tuple[nn.Module, nn.Module]:
    """Return an encoder's layers before its last block with convolutions, and the rest.

    A network that is not a sequence of blocks (a transformer) is the first half as a whole; the fusion then
    turns the channels of its last map.
    """
    before, after = _cut(_members(encoder.features))
    if not before:
        before, after = [encoder.features], []
    return nn.Sequential(*before), nn.Sequential(*after)


def _cut(layers: Sequence[nn.Module]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Cut before the last block: the last member that is made of others, searched inside sequences."""
    places = [i for i, layer in enumerate(layers) if _block(layer)]
    if not places:
        return list(layers), []
    last = places[-1]
    inside = _members(layers[last])
    if any(_block(layer) for layer in inside):
        before, after = _cut(inside)
        return [*layers[:last], *before], [*after, *layers[last + 1 :]]
    return list(layers[:last]), list(layers[last:])


def _members(layer: nn.Module) -> list[nn.Module]:
    """Return the layers of a sequence, in order and with repetitions; none of anything else."""
    return list(layer) if isinstance(layer, nn.Sequential) else []


def _block(layer: nn.Module) -> bool:
    """Tell whether a layer is made of others and has a convolution among them."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return any(isinstance(module, convolutions) for module in layer.modules() if module is not layer)
