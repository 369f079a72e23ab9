from __future__ import annotations

import math

import pytest
import torch

from medmm.encoders.augment import flipped, shifted
from medmm.encoders.image import Kind, image_encoder
from medmm.encoders.mlp import TableEncoder


@pytest.mark.parametrize("kind", ["cnn", "resnet10", "resnet18", "densenet121"])
@pytest.mark.parametrize("dims", [2, 3])
def test_an_encoder_gives_its_width_and_knows_one_patient_only(kind: Kind, dims: int) -> None:
    torch.manual_seed(0)
    encoder = image_encoder(kind, spatial_dims=dims, in_channels=2, channels=(8, 12), dropout=0.5).eval()
    images = torch.randn(3, 2, *[32] * dims)
    together = encoder(images)
    assert together.shape == (3, encoder.out_features)
    torch.testing.assert_close(encoder(images[1:2])[0], together[1], rtol=1e-4, atol=1e-5)
    assert not any("BatchNorm" in type(module).__name__ for module in encoder.modules())


def test_the_default_for_small_volumes_has_under_half_a_million_parameters() -> None:
    encoder = image_encoder("cnn", spatial_dims=3, in_channels=2, channels=(16, 32, 64), dropout=0.2)
    assert sum(p.numel() for p in encoder.parameters()) < 500_000


def test_flips_mirror_about_half_of_the_images_and_only_along_the_axis() -> None:
    batch = torch.arange(200 * 12, dtype=torch.float32).view(200, 1, 3, 4)
    out = flipped(batch, [3], torch.Generator().manual_seed(0))
    mirrored = [bool((o == b.flip(2)).all()) for o, b in zip(out, batch, strict=True)]
    same = [bool((o == b).all()) for o, b in zip(out, batch, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert abs(sum(mirrored) - 100) < 4 * math.sqrt(50)


def test_shifts_move_the_image_and_repeat_its_edge() -> None:
    batch = torch.arange(5.0).view(1, 1, 5, 1).repeat(100, 1, 1, 3)
    out = shifted(batch, 2, torch.Generator().manual_seed(0))
    allowed = [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 4], [2, 3, 4, 4, 4]]
    seen = {tuple(image[0, :, 1].int().tolist()) for image in out}
    assert seen == {tuple(a) for a in allowed}
    assert shifted(batch, 0, torch.Generator()) is batch


def test_the_same_seed_gives_the_same_variation() -> None:
    batch = torch.randn(4, 2, 6, 5, 4)
    one, two = (
        shifted(flipped(batch, [2, 4], g), 2, g) for g in (torch.Generator().manual_seed(3) for _ in "ab")
    )
    assert torch.equal(one, two)


def test_a_table_encoder_ends_in_its_last_hidden_layer() -> None:
    encoder = TableEncoder(5, (7, 3), dropout=0.0)
    assert encoder.out_features == 3
    assert encoder(torch.randn(4, 5)).shape == (4, 3)
