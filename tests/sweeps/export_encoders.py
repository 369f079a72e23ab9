"""Every encoder at its full size, exported and compared with torch: minutes, so it is run by hand.

python -m pytest tests/sweeps/export_encoders.py
"""

from __future__ import annotations

import pytest
import torch

from medmm.encoders.image import Kind, image_encoder
from medmm.encoders.notes import NotesEncoder
from medmm.encoders.sequence import SequenceKind
from medmm.encoders.series import SeriesEncoder
from medmm.encoders.vision_transformer import Patches
from medmm.network.export import TOLERANCE, disagreement, graph_of


@pytest.mark.parametrize("kind", ["densenet121", "resnet18", "resnet50", "vit", "swin", "efficientnet-b0"])
@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 32)], ids=["2-D", "3-D"])
def test_an_encoder_of_its_full_size_exports_and_agrees(kind: Kind, shape: tuple[int, ...]) -> None:
    encoder = image_encoder(
        kind, spatial_dims=len(shape), in_channels=1, channels=(), dropout=0.2, patches=Patches(shape)
    ).eval()
    images = {"scan": torch.randn(5, 1, *shape)}
    assert disagreement(encoder, graph_of(encoder, images, "embedding"), images) <= TOLERANCE


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_a_course_and_a_note_export_and_agree(kind: SequenceKind) -> None:
    series = SeriesEncoder(6, 16, kind, 32, layers=2, heads=4, dropout=0.2).eval()
    courses = {"series": 3 * torch.randn(5, 6 * 49)}
    assert disagreement(series, graph_of(series, courses, "embedding"), courses) <= TOLERANCE
    notes = NotesEncoder(2000, 128, kind, 32, layers=2, heads=4, dropout=0.2).eval()
    tokens = {"notes": torch.randint(0, 2000, (5, 128)).float()}
    assert disagreement(notes, graph_of(notes, tokens, "embedding"), tokens) <= TOLERANCE
