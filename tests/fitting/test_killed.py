from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medmm.fitting.loop import fit_network
from tests.conftest import REPOSITORY
from tests.fitting.small_fit import small_job

ASKED = {
    "dropout": 0.3,
    "auxiliary": 0.4,
    "modulate": 0.2,
    "settings": {"epochs": 4, "batch_size": 10, "ema": 0.8},
}
STEPS = 4 * 5
"""Four epochs of 45 patients in batches of ten."""


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_step_and_again_it_ends_in_the_same_bits(tmp_path, seed):
    """SIGKILL at two steps drawn at random, in fresh processes; what the third ends with is compared."""
    whole = small_job(**ASKED)
    history = fit_network(whole, tmp_path / "whole")
    rng = np.random.default_rng(seed)
    command = [sys.executable, "-m", "tests.fitting.small_fit", tmp_path / "killed"]
    first = int(rng.integers(1, STEPS - 2))
    # A checkpoint at every step in the one case; none before the end in the other, which begins anew.
    seconds = 0.0 if seed == 0 else 10.0
    asked = {**ASKED, "checkpoint_seconds": seconds, "kill": first}
    died = subprocess.run([*command, json.dumps(asked)], cwd=REPOSITORY, check=False)
    assert died.returncode == -signal.SIGKILL
    place = tmp_path / "killed" / "fold0" / "fused"
    assert (place / "checkpoint.safetensors").exists() == (seed == 0)
    assert not (place / "done.safetensors").exists()
    epochs: list[int] = []
    resumed = small_job(**ASKED)
    again = fit_network(
        resumed, tmp_path / "killed", on_epoch=lambda name, epoch, metrics: epochs.append(epoch)
    )
    assert epochs[0] == (first // 5 if seed == 0 else 0)
    assert again == history
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
    assert load_file(place / "done.safetensors").keys() == whole.network.state_dict().keys()


@pytest.mark.parametrize("step", range(0, STEPS, 3))
def test_stopped_after_any_step_it_ends_in_the_same_bits(tmp_path, step, monkeypatch):
    """The same in this process, at more steps: an exception where the kill was."""
    from medmm.fitting import loop
    from medmm.fitting.steps import Steps

    class Stopped(Exception):
        pass

    whole, broken, resumed = (small_job(**ASKED) for _ in range(3))
    fit_network(whole, tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    update, taken = Steps._update, []

    def stop(self: Steps) -> None:
        update(self)
        taken.append(1)
        if len(taken) > step:
            raise Stopped

    with monkeypatch.context() as during:
        during.setattr(Steps, "_update", stop)
        with pytest.raises(Stopped):
            fit_network(broken, tmp_path / "broken")
    fit_network(resumed, tmp_path / "broken")
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
