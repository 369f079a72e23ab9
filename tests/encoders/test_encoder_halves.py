from __future__ import annotations

import pytest
import torch
from torch import nn

from medmm.columns import ImageSpec
from medmm.encoders.halves import FirstHalf, halves
from medmm.encoders.image import Kind, image_encoder
from medmm.encoders.tokens import ColumnTokens
from medmm.encoders.vision_transformer import Patches
from medmm.modalities.image import Image, ImageSettings
from medmm.network.forms import encoder_for
from medmm.network.network import bare
from medmm.sample import Player


@pytest.mark.parametrize(
    ("kind", "shape", "cut"),
    [
        ("cnn", (16, 16, 8), True),
        ("resnet10", (32, 32), True),
        ("densenet121", (32, 32), True),
        ("efficientnet-b0", (32, 32), True),
        ("vit", (16, 16), False),
    ],
)
def test_two_halves_are_the_whole(kind: Kind, shape: tuple[int, ...], cut: bool) -> None:
    torch.manual_seed(0)
    encoder = image_encoder(
        kind,
        spatial_dims=len(shape),
        in_channels=1,
        channels=(4, 6),
        dropout=0.1,
        patches=Patches(shape, width=6, depth=1),
    ).eval()
    before, after = halves(encoder)
    x = torch.randn(2, 1, *shape)
    torch.testing.assert_close(after(before(x)).flatten(2).mean(dim=2), encoder(x))
    counted = [sum(p.numel() for p in part.parameters()) for part in (before, after, encoder)]
    assert counted[0] + counted[1] == counted[2]
    assert (counted[1] > 0) == cut


def test_the_map_of_a_modality_travels_flat_and_the_whole_can_still_be_reached() -> None:
    spec = ImageSpec(dir="x", kind="intensity")
    modality = Image("scan", ImageSettings(shape=(8, 8, 8), encoder={"channels": (4, 6)}), spec)
    encoder, given = encoder_for(modality, ("map", "vector"))
    assert isinstance(encoder, FirstHalf)
    assert (given.form, given.shape, given.channels) == ("map", (4, 4, 4, 4), 6)
    assert encoder(torch.zeros(3, 1, 8, 8, 8)).shape == (3, given.width)
    whole = bare(encoder)
    nn.init.constant_(whole.features[0].conv.weight, 0.5)
    assert encoder.layers[0].conv.weight.unique().tolist() == [0.5]
    assert given.last is not None
    own = {id(p) for p in whole.parameters()}
    assert {id(p) for p in given.last.parameters()} | {id(p) for p in encoder.parameters()} == own


def test_a_field_is_a_token_by_hand_and_a_missing_one_is_the_mask() -> None:
    players = [Player("age", "Age", (0, 1), 1), Player("sex", "Sex", (2, 3, 4), 4)]
    tokens = ColumnTokens(players, 5, width=2)
    nn.init.constant_(tokens.mask, 7)
    with torch.no_grad():
        tokens.weight.copy_(torch.arange(20.0).reshape(2, 5, 2))
        tokens.bias.copy_(torch.tensor([[0.5, 0.25], [-1, -2]]))
    found = tokens(torch.tensor([[2.0, 0, 0, 1, 0], [9, 1, 0, 0, 1]]))
    # age: 2 · weight[0, 0]; sex: 1 · weight[1, 3]; columns of another field do not count.
    assert found[0].tolist() == [2 * 0 + 0.5, 2 * 1 + 0.25, 1, 16 - 1, 17 - 2, 1]
    assert found[1].tolist() == [7, 7, 0, 7, 7, 0]
