"""Before the first epoch, bfloat16 is held against float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medmm.errors import FittingError
from medmm.fitting.loop import fit_network
from tests.fitting.small_fit import small_job


class Turned(nn.Module):
    """An encoder whose kernels are wrong in bfloat16, as some of oneDNN's are for small maps."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)
        return -found if torch.is_autocast_enabled("cpu") else found


def test_kernels_that_are_wrong_in_bfloat16_are_refused(tmp_path: Path) -> None:
    job = small_job(settings={"precision": "bf16"})
    for name in job.network.names:
        job.network.encoders[name] = Turned(job.network.encoders[name])
    with pytest.raises(FittingError, match=r"elsewhere in bfloat16 than in float32 .*precision float32"):
        fit_network(job, tmp_path)
    assert not list(tmp_path.rglob("done.safetensors"))


def test_rounding_alone_is_not_refused_and_no_gradient_stays(tmp_path: Path) -> None:
    job = small_job(settings={"precision": "bf16", "epochs": 1})
    history = fit_network(job, tmp_path)
    assert len(history.epochs) == 1
