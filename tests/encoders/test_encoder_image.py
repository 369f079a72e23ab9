from __future__ import annotations

import math

import pytest
import torch

from medmm.encoders.augment import flipped, intensified, shifted, turned
from medmm.encoders.image import Kind, image_encoder
from medmm.encoders.mlp import TableEncoder
from medmm.encoders.vision_transformer import Patches
from medmm.network.export import TOLERANCE, disagreement, graph_of


@pytest.mark.parametrize(
    "kind", ["cnn", "resnet10", "resnet18", "resnet50", "densenet121", "efficientnet-b0", "vit", "swin"]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_an_encoder_gives_its_width_and_knows_one_patient_only(kind: Kind, dims: int) -> None:
    torch.manual_seed(0)
    patches = Patches((32,) * dims, patch=8, width=24, depth=2)
    encoder = image_encoder(
        kind, spatial_dims=dims, in_channels=2, channels=(8, 12), dropout=0.5, patches=patches
    ).eval()
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


def test_each_image_is_flipped_and_shifted_along_every_axis_by_itself() -> None:
    batch = torch.arange(40 * 60, dtype=torch.float32).view(40, 1, 5, 4, 3)
    mirrors, steps = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    by_hand = batch.clone()
    for axis in (1, 3):
        for place in (torch.rand(40, generator=mirrors) < 0.5).nonzero().flatten().tolist():
            by_hand[place] = by_hand[place].flip(axis)
    assert torch.equal(flipped(batch, [2, 4], torch.Generator().manual_seed(1)), by_hand)
    drawn = [torch.randint(-6, 7, (40,), generator=steps) for _ in range(3)]  # farther than the image is wide
    x, y, z = (
        [(torch.arange(size) + step).clamp(0, size - 1) for step in along]
        for size, along in zip((5, 4, 3), drawn, strict=True)
    )
    by_hand = torch.stack([one[:, i][:, :, j][..., k] for one, i, j, k in zip(batch, x, y, z, strict=True)])
    assert torch.equal(shifted(batch, 6, torch.Generator().manual_seed(2)), by_hand)


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


def blob() -> torch.Tensor:
    """Images of one bright square above the middle."""
    image = torch.zeros(16, 1, 33, 33)
    image[:, :, 4:9, 14:19] = 1.0
    return image


def centre(image: torch.Tensor) -> tuple[float, float]:
    """Return (row, column) of the middle of mass, from the middle of the image."""
    at = torch.arange(33.0) - 16
    mass = image[0] / image[0].sum()
    return float((mass.sum(1) * at).sum()), float((mass.sum(0) * at).sum())


def test_a_rotation_moves_along_a_circle_and_no_further_than_asked() -> None:
    angles = []
    for image in turned(blob(), 30.0, 0.0, torch.Generator().manual_seed(0)):
        row, column = centre(image)
        assert math.hypot(row, column) == pytest.approx(10.0, abs=0.3)
        angles.append(math.degrees(math.atan2(column, -row)))
    assert 20 < max(map(abs, angles)) <= 31
    assert min(angles) < 0 < max(angles)


def test_a_zoom_changes_the_distance_from_the_middle_and_no_angle() -> None:
    found = [centre(image) for image in turned(blob(), 0.0, 0.2, torch.Generator().manual_seed(0))]
    assert all(abs(column) < 0.1 and 7.8 < -row < 12.2 for row, column in found)
    assert max(-row for row, _ in found) - min(-row for row, _ in found) > 2


def test_a_volume_is_turned_about_every_axis() -> None:
    volume = torch.randn(3, 2, 9, 8, 7)
    out = turned(volume, 10.0, 0.1, torch.Generator().manual_seed(0))
    assert out.shape == volume.shape
    assert not torch.equal(out, volume)
    assert turned(volume, 0.0, 0.0, torch.Generator()) is volume


def test_contrast_blur_and_noise_do_what_their_names_say() -> None:
    images = torch.randn(50, 1, 12, 12) + 3

    def drawn(**wanted: float) -> torch.Tensor:
        given = {"contrast": 0.0, "blur_voxels": 0.0, "noise": 0.0} | wanted
        return intensified(images, torch.Generator().manual_seed(0), **given)

    ratio = drawn(contrast=0.3).flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.7 <= ratio.min() < 0.8 < 1.2 < ratio.max() <= 1.3
    torch.testing.assert_close(drawn(contrast=0.3).mean((1, 2, 3)), images.mean((1, 2, 3)))
    assert (drawn(noise=0.5) - images).std() == pytest.approx(0.5, rel=0.05)
    assert drawn(blur_voxels=2.0).std() < images.std()
    assert torch.equal(drawn(noise=0.1, blur_voxels=1.0), drawn(noise=0.1, blur_voxels=1.0))


def test_an_encoder_exports_with_a_free_batch_and_agrees_with_torch() -> None:
    patches = Patches((32, 32), patch=8, width=16, depth=1, heads=2)
    encoder = image_encoder(
        "vit", spatial_dims=2, in_channels=1, channels=(), dropout=0.2, patches=patches
    ).eval()
    images = {"scan": torch.randn(5, 1, 32, 32)}
    assert disagreement(encoder, graph_of(encoder, images, "embedding"), images) <= TOLERANCE
