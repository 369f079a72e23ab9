from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medmm.errors import FittingError
from medmm.fitting.checkpoint import History
from medmm.fitting.loop import fit_network
from medmm.fitting.steps import clip
from tests.conftest import REPOSITORY
from tests.fitting.small_fit import small_job


def weights(tmp_path, name: str, **asked) -> dict[str, torch.Tensor]:
    job = small_job(**asked)
    fit_network(job, tmp_path / name)
    return job.network.state_dict()


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize("outcome", ["binary", "several"])
@pytest.mark.parametrize("more", [{}, {"auxiliary": 0.5, "modulate": 0.3}], ids=["plain", "heads"])
def test_parts_of_a_batch_add_up_to_the_whole(tmp_path, outcome, more):
    whole = weights(tmp_path, "whole", outcome=outcome, **more)
    parts = weights(tmp_path, "parts", outcome=outcome, settings={"micro_batch": 4}, **more)
    one = weights(tmp_path, "one", outcome=outcome, settings={"micro_batch": 1}, **more)
    begun = small_job(outcome=outcome, **more).network.state_dict()
    assert farthest(whole, begun) > 1e-3  # something was learned
    assert 0 < farthest(whole, parts) < 1e-5
    assert farthest(whole, one) < 1e-5


def test_a_micro_batch_as_large_as_the_batch_changes_no_bit(tmp_path):
    whole, same = (weights(tmp_path, f"{n}", settings={"micro_batch": n}) for n in (16, 45))
    assert farthest(whole, same) == farthest(whole, weights(tmp_path, "default")) == 0


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"norm": "batch", "settings": {"micro_batch": 4}}, "encoders.ct.norm is a batch norm"),
        ({"outcome": "cox", "settings": {"micro_batch": 4}}, r"the loss of death \(cox\) compares"),
        ({"norm": "batch", "settings": {"batch_size": 1}}, "a batch is of one patient, and encoders.ct.norm"),
        ({"outcome": "cox", "settings": {"batch_size": 1}}, r"a batch is of one patient, and the loss of"),
    ],
)
def test_what_compares_patients_is_refused_in_parts_and_alone(tmp_path, asked, why):
    epochs: list[int] = []
    with pytest.raises(FittingError, match=why):
        fit_network(small_job(**asked), tmp_path, on_epoch=lambda name, epoch, metrics: epochs.append(epoch))
    assert epochs == []


def test_a_batch_of_one_is_fitted_where_nothing_compares_patients(tmp_path):
    begun = small_job().network.state_dict()
    assert farthest(weights(tmp_path, "one", settings={"batch_size": 1, "epochs": 1}), begun) > 1e-4


@pytest.mark.parametrize("where", ["ct", "records", "encoder", "fusion"])
def test_a_loss_that_is_not_finite_is_seen_before_the_first_epoch(tmp_path, where):
    job = small_job()
    said = f"since {where} holds values"
    if where in ("encoder", "fusion"):
        part = job.network.encoders["ct"] if where == "encoder" else job.network.fusion
        with torch.no_grad():
            next(part.parameters()).fill_(float("nan"))
        said = "since the encoder of ct gives values" if where == "encoder" else "since the fusion gives"
    else:
        entry = job.inputs.prepared[where]
        spoilt = np.array(entry.array)
        spoilt[job.order(0)[0]] = np.inf
        rows = np.arange(len(spoilt))
        job = replace(job, inputs=job.inputs.replace({where: replace(entry, array=spoilt, row_of=rows)}))
    epochs: list[int] = []
    with pytest.raises(FittingError, match=f"not finite before the first epoch, {said}"):
        fit_network(job, tmp_path, on_epoch=lambda name, epoch, metrics: epochs.append(epoch))
    assert epochs == []


def test_the_trial_moves_no_random_stream(tmp_path):
    from medmm.fitting.loop import Fit
    from medmm.fitting.processes import processes

    job = small_job(dropout=0.3, norm="batch")
    torch.manual_seed(11)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in job.network.state_dict().items()}
    Fit(job, tmp_path, processes())
    assert torch.equal(before, torch.get_rng_state())
    assert farthest(job.network.state_dict(), state) == 0  # the running means of the norm included


def test_a_loss_that_goes_astray_later_is_named_with_its_step(tmp_path):
    job = small_job(settings={"learning_rate": 1e30, "epochs": 9})
    with pytest.raises(FittingError, match=r"the loss is not finite in step [2-9]; lower fitting.learning"):
        fit_network(job, tmp_path)


def test_an_unclipped_gradient_is_longer(tmp_path):
    clipped, free = (weights(tmp_path, f"{c}", settings={"clip": c, "epochs": 1}) for c in (1e-3, None))
    assert farthest(clipped, free) > 1e-6
    assert farthest(weights(tmp_path, "1", settings={"clip": 1.0}), weights(tmp_path, "default")) == 0


@pytest.mark.parametrize("length", [0.5, 0.9995, 1.0, 30.0, float("nan"), float("inf")])
def test_a_gradient_is_clipped_to_torch_s_own_bits(length):
    ours, theirs = ([nn.Parameter(torch.zeros(shape)) for shape in ((7, 5), (3,))] for _ in "ab")
    for mine, own in zip(ours, theirs, strict=True):
        mine.grad = torch.full_like(mine, length / 38**0.5)
        own.grad = mine.grad.clone()
    clip(ours, 1.0)
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for mine, own in zip(ours, theirs, strict=True):
        assert torch.equal(mine.grad.nan_to_num(), own.grad.nan_to_num())


def test_the_average_that_is_kept_is_the_weights_average_by_hand(tmp_path):
    followed: list[dict[str, torch.Tensor]] = []
    job = small_job(settings={"ema": 0.9, "epochs": 2, "batch_size": 45})
    job = replace(job, select=job.select[:0])  # the last epoch is kept, one step each
    kept = job.network

    def follow(name: str, epoch: int, metrics: object) -> None:
        followed.append({key: value.clone() for key, value in kept.state_dict().items()})

    fit_network(job, tmp_path, on_epoch=follow)
    first, second = followed
    by_hand = {key: 0.9 * first[key] + 0.1 * second[key] for key in first}
    assert farthest(by_hand, kept.state_dict()) < 1e-6
    assert farthest(second, kept.state_dict()) > 1e-5


def test_bf16_is_near_float32_and_leaves_float32_weights(tmp_path):
    full, half = (weights(tmp_path, p, settings={"precision": p}) for p in ("float32", "bf16"))
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert 0 < farthest(full, half) < 0.05


def fitted_alone(folder, **asked) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.fitting.small_fit", folder, json.dumps(asked)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_where_memory_ends_the_batch_is_cut_and_the_result_is_the_same(tmp_path):
    asked = {"size": 48, "settings": {"epochs": 1}}
    fit_network(small_job(**asked), tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "fold0" / "fused" / "done.safetensors")
    done = fitted_alone(tmp_path / "little", spare_megabytes=120, **asked)
    assert done.returncode == 0, done.stderr
    assert 1 <= int((tmp_path / "little" / "micro_batch").read_text()) < 16
    assert farthest(whole, load_file(tmp_path / "little" / "weights.safetensors")) < 1e-5


def test_where_one_patient_is_too_many_it_says_what_to_change(tmp_path):
    done = fitted_alone(tmp_path / "none", spare_megabytes=10, size=48, settings={"epochs": 1})
    assert done.returncode == 1
    assert "FittingError: fold0/fused: memory runs out" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "none" / "weights.safetensors").exists()


def test_a_history_without_the_micro_batch_is_read():
    told = {"epochs": [], "best_epoch": 3, "best_loss": 1.0, "early_stopping": True}
    assert History(**told).micro_batch == 0
