"""Transformers over the patches of an image, MONAI's: the plain one (ViT) and one in shifted windows (Swin).

Both know one patient only, since layer norm does. Sources: Dosovitskiy et al. 2021; Liu et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS, SWIN_WINDOW, SWIN_PATCH = 24, (2, 2, 2, 2), (3, 6, 12, 24), 7, 2
"""Swin as in Swin UNETR with 24 features (Hatamizadeh et al. 2022), the smallest that is published."""


@dataclass(frozen=True, slots=True)
class Patches:
    """Sizes of a ViT; the defaults are ViT-Ti (Touvron et al. 2021).

    Attributes:
        shape: of the image, voxels per axis.
        patch: voxels per patch and axis; divides the image's shape.
        width: of a token; the heads divide it.
    """

    shape: tuple[int, ...]
    patch: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3


class _Tokens(nn.Module):
    """A ViT whose tokens come out as a feature map ``[batch, width, token]``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.network(image)[0]  # [batch, token, width]
        return tokens.transpose(1, 2)


class _LastStage(nn.Module):
    """A Swin transformer's last, normalised stage ``[batch, width, *smaller]``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        last: Tensor = self.network(image)[-1]
        return last


def vit(in_channels: int, sizes: Patches) -> tuple[nn.Module, int, dict[str, str]]:
    """Return a ViT without its class token, the width of its tokens, and its names in MONAI.

    Args:
        in_channels: channels of the image.
        sizes: of the network; the patch divides the shape, the heads divide the width.
    """
    from monai.networks.nets import ViT

    network = ViT(
        in_channels=in_channels,
        img_size=sizes.shape,
        patch_size=sizes.patch,
        hidden_size=sizes.width,
        mlp_dim=4 * sizes.width,
        num_layers=sizes.depth,
        num_heads=sizes.heads,
        proj_type="conv",
        pos_embed_type="learnable",
        classification=False,
        spatial_dims=len(sizes.shape),
    )
    return _Tokens(network), sizes.width, {"network.": ""}


def swin(in_channels: int, spatial_dims: int) -> tuple[nn.Module, int, dict[str, str]]:
    """Return a Swin transformer, the width of its last stage, and its names in MONAI."""
    from monai.networks.nets.swin_unetr import SwinTransformer

    network = SwinTransformer(
        in_chans=in_channels,
        embed_dim=SWIN_WIDTH,
        window_size=(SWIN_WINDOW,) * spatial_dims,
        patch_size=(SWIN_PATCH,) * spatial_dims,
        depths=SWIN_DEPTHS,
        num_heads=SWIN_HEADS,
        spatial_dims=spatial_dims,
    )
    return _LastStage(network), SWIN_WIDTH * 2 ** len(SWIN_DEPTHS), {"network.": ""}
