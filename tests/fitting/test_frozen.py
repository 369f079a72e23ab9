from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medmm.fitting.frozen import FOLDER, Ready
from medmm.fitting.loop import fit_network, predict
from medmm.network.fusion import Stack
from medmm.network.network import Network, unimodal
from tests.fitting.small_fit import Volume, small_job


def states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def counted(monkeypatch) -> list[int]:
    """Count the images that go through the volume's encoder."""
    seen: list[int] = []
    forward = Volume.forward

    def count(self: Volume, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Volume, "forward", count)
    return seen


@pytest.mark.parametrize("varied", [False, True], ids=["once", "every step"])
def test_a_frozen_encoder_stays_and_the_rest_is_fitted(tmp_path, varied):
    job = small_job(dropout=0.2, norm="batch", frozen=["ct"])
    job = job if varied else replace(job, augment={})
    encoder, rest = states(job.network.encoders["ct"]), states(job.network.fusion)
    fit_network(job, tmp_path)
    assert isinstance(job.network.encoders["ct"], Volume)
    for key, value in job.network.encoders["ct"].state_dict().items():
        assert torch.equal(value, encoder[key]), key  # the running means of its norm as well
    assert any(not torch.equal(value, rest[key]) for key, value in job.network.fusion.state_dict().items())
    assert all(parameter.requires_grad for parameter in job.network.parameters())


def test_its_vectors_are_computed_once_for_all_fits(tmp_path, monkeypatch):
    seen = counted(monkeypatch)
    job = replace(small_job(frozen=["ct"]), augment={})
    stored = len(job.inputs.prepared["ct"].array)
    fit_network(job, tmp_path)
    assert sum(seen) == stored
    alone = Network({"ct": unimodal(job.network.encoders["ct"])}, Stack([1]))
    have = job.inputs.prepared["ct"].row_of[job.train] >= 0
    single = replace(
        job, name="fold1/ct", network=alone, inputs=job.inputs.only(["ct"]), select=job.select[:0]
    )
    before = states(alone)
    fit_network(replace(single, train=job.train[have]), tmp_path)
    assert sum(seen) == stored  # the same weights on the same images
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    after = alone.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        "encoders.ct.head.layers.0.bias",
        "encoders.ct.head.layers.0.weight",
    } | {key for key in before if key.startswith("fusion.") and not torch.equal(before[key], after[key])}


def test_vectors_of_other_weights_or_a_damaged_file_are_not_taken(tmp_path, monkeypatch):
    first, other = (replace(small_job(frozen=["ct"]), augment={}) for _ in range(2))
    fit_network(first, tmp_path)
    (file,) = (tmp_path / FOLDER).iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    seen = counted(monkeypatch)
    fit_network(replace(other, name="fold1/fused"), tmp_path)
    assert sum(seen) == len(first.inputs.prepared["ct"].array)
    assert file.read_bytes() == whole
    with torch.no_grad():
        other.network.encoders["ct"].convolution.bias.add_(1)
    fit_network(replace(other, name="fold2/fused"), tmp_path)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_what_it_is_fitted_on_is_what_it_predicts_from(tmp_path):
    """The fused network, images in, gives the logits that the loop saw from the vectors."""
    job = replace(small_job(frozen=["ct"], settings={"epochs": 2}), augment={}, modality_dropout=0.0)
    history = fit_network(job, tmp_path)
    logits = torch.from_numpy(predict(job.network, job.inputs, job.select))
    labels = torch.from_numpy(job.labels[job.select])
    positive = job.labels[job.train].sum()
    weight = torch.tensor((len(job.train) - positive) / positive, dtype=torch.float32)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    assert float(loss) == pytest.approx(history.best_loss, abs=1e-6)
    assert not any(isinstance(module, Ready) for module in job.network.modules())
    assert np.isfinite(history.best_loss)
