from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from medmm.errors import FittingError
from medmm.fitting import checkpoint
from medmm.fitting.loop import fit_network
from medmm.fitting.processes import _others_there
from tests.conftest import REPOSITORY
from tests.fitting.small_fit import small_job

ASKED = {"outcome": "several", "auxiliary": 0.5, "settings": {"epochs": 2, "batch_size": 5}}
"""Nine batches of five: three patients go to the one process, two to the other."""


LEAVING = """
import atexit, torch
atexit.register(lambda: print(torch.distributed.is_initialized()))  # the first to register is the last to run
from medmm.fitting.processes import processes
print(processes().anybody(True))
"""


def together(work, asked, *, processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Fit in several processes at once."""
    return started(["-m", "tests.fitting.small_fit", work, json.dumps(asked)], processes)


def started(arguments, processes: int) -> list[subprocess.CompletedProcess[str]]:
    """Run Python in several processes at once, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
        "WORLD_SIZE": f"{processes}",
        "LOCAL_WORLD_SIZE": f"{processes}",
    }
    command = [sys.executable, *arguments]
    running = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **common, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    ended = [process.communicate(timeout=300) for process in running]
    return [
        subprocess.CompletedProcess(command, process.returncode, out, err)
        for process, (out, err) in zip(running, ended, strict=True)
    ]


REFUSED = """
from medmm.fitting.processes import leader_first, leads
with leader_first():
    raise SystemExit("a table is missing" if leads() else "went on")
"""


def test_nobody_waits_for_a_leader_that_is_refused():
    first, other = started(["-c", REFUSED], 2)
    assert (first.returncode, first.stderr.splitlines()[-1]) == (1, "a table is missing")
    assert other.returncode == 1
    assert "another process of this run has ended" in other.stderr.strip().splitlines()[-1]


def test_processes_part_before_they_end():
    for one in started(["-c", LEAVING], 2):
        assert (one.returncode, one.stdout.split()) == (0, ["True", "False"]), one.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")
    done = together(folder, ASKED)
    assert [one.returncode for one in done] == [0, 0], "\n".join(one.stderr for one in done)
    return folder


def test_two_processes_with_uneven_shares_end_with_the_weights_of_one(two, tmp_path):
    job = small_job(**ASKED)
    begun = {key: value.clone() for key, value in job.network.state_dict().items()}
    alone = fit_network(job, tmp_path / "one")
    found = load_file(two / "weights.safetensors")
    for key, value in job.network.state_dict().items():
        assert float((value - found[key]).abs().max()) <= 1e-6, key
    assert any(float((value - begun[key]).abs().max()) > 1e-3 for key, value in found.items())
    assert alone.epochs[-1].keys() >= {"loss", "loss.ct", "select_loss", "select_loss.ct", "gain.records"}
    stored = checkpoint.read(two / "fold0" / "fused" / "done.safetensors")
    assert stored is not None
    for name, value in alone.epochs[-1].items():
        assert stored.history.epochs[-1][name] == pytest.approx(value, abs=1e-5), name


def test_a_process_whose_fellow_is_killed_says_so_and_together_they_go_on_to_the_same_bits(two, tmp_path):
    """The follower dies in the fourth step; the leader ends by itself, and both begin again."""
    killed = together(tmp_path / "killed", {**ASKED, "kill": 3, "kill_rank": 1, "checkpoint_seconds": 0.0})
    assert [one.returncode for one in killed] == [1, -signal.SIGKILL]
    last = killed[0].stderr.strip().splitlines()[-1]
    assert "FittingError: another process of this run has ended" in last
    assert "start all of them again with --resume" in last
    assert (tmp_path / "killed" / "fold0" / "fused" / "checkpoint.safetensors").exists()
    resumed = together(tmp_path / "killed", ASKED)
    assert [one.returncode for one in resumed] == [0, 0]
    found = load_file(tmp_path / "killed" / "weights.safetensors")
    for key, value in load_file(two / "weights.safetensors").items():
        assert torch.equal(value, found[key]), key


def test_a_lost_connection_is_said_and_memory_that_ends_is_left_to_who_asked():
    with pytest.raises(FittingError, match="another process of this run has ended"), _others_there():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4711")
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"), _others_there():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
