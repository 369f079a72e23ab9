"""Every encoder at its full size, exported and compared with torch: minutes, so it is run by hand.

python -m pytest -s tests/sweeps/export_encoders.py prints the table of docs/modalities.md, "Exported".
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medmm.encoders.bag import BagEncoder
from medmm.encoders.ft_transformer import FTTransformer
from medmm.encoders.image import Kind, image_encoder
from medmm.encoders.mlp import TableEncoder
from medmm.encoders.notes import NotesEncoder
from medmm.encoders.sequence import SequenceKind
from medmm.encoders.series import SeriesEncoder
from medmm.encoders.vision_transformer import Patches
from medmm.network.export import TOLERANCE, disagreement, graph_of


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def gap(name: str, encoder: nn.Module, x: Tensor) -> float:
    """Return the difference of an encoder's graph, and print its line of the table."""
    encoder.eval()
    found = disagreement(encoder, graph_of(encoder, {"x": x}, "embedding"), {"x": x})
    size = sum(parameter.numel() for parameter in encoder.parameters())
    shape = " × ".join(map(str, x.shape[1:]))
    print(f"\n| {name} | {shape} | {found:.1e} | {size:,} |")
    return found


@pytest.mark.parametrize(
    "kind", ["cnn", "densenet121", "resnet10", "resnet18", "resnet50", "vit", "swin", "efficientnet-b0"]
)
@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 32)], ids=["2-D", "3-D"])
def test_an_encoder_of_its_full_size_exports_and_agrees(kind: Kind, shape: tuple[int, ...]) -> None:
    if kind == "efficientnet-b0" and len(shape) == 3:
        shape = (64, 64, 64)  # of one voxel's groups torch itself is 8e-6 away from float64
    encoder = image_encoder(
        kind,
        spatial_dims=len(shape),
        in_channels=1,
        channels=(16, 32, 64),
        dropout=0.2,
        patches=Patches(shape),
    )
    assert gap(f"`{kind}`", encoder, torch.randn(5, 1, *shape)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["cnn", "resnet10", "resnet18", "resnet50"])
def test_an_encoder_of_a_waveform_exports_and_agrees(kind: Kind) -> None:
    encoder = image_encoder(kind, spatial_dims=1, in_channels=12, channels=(16, 32, 64), dropout=0.2)
    assert gap(f"waveform `{kind}`", encoder, torch.randn(5, 12, 1000)) <= TOLERANCE


def test_a_bag_exports_with_any_number_of_images_and_agrees() -> None:
    image = image_encoder("resnet18", spatial_dims=2, in_channels=1, channels=(), dropout=0.2)
    bags = torch.randn(5, 3, 1, 64, 64)
    bags[0, 1:] = 0
    assert gap("bag of `resnet18`", BagEncoder(image, 32), bags) <= TOLERANCE


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_a_course_and_a_note_export_and_agree(kind: SequenceKind) -> None:
    series = SeriesEncoder(6, 16, kind, 32, layers=2, heads=4, dropout=0.2)
    notes = NotesEncoder(2000, 128, kind, 32, layers=2, heads=4, dropout=0.2)
    assert gap(f"series `{kind}`", series, 3 * torch.randn(5, 6 * 49)) <= TOLERANCE
    assert gap(f"notes `{kind}`", notes, torch.randint(0, 2000, (5, 128)).float()) <= TOLERANCE


def test_tables_export_and_agree() -> None:
    rows = torch.randn(5, 40)
    rows[:, 10:22] = nn.functional.one_hot(torch.tensor([0, 3, 10, 11, 5]), 12).float()
    owners = [min(column, 10) if column < 22 else column - 11 for column in range(40)]
    vectors = TableEncoder(40, (32, 16), 0.5, categories=[range(10, 22)])
    assert gap("table `mlp`", TableEncoder(40, (32, 16), 0.5), rows) <= TOLERANCE
    assert gap("table `mlp`, `categories: embedding`", vectors, rows) <= TOLERANCE
    assert gap("table `ft_transformer`", FTTransformer(owners), rows) <= TOLERANCE
