"""Runs of several processes, killed with SIGKILL and taken up: ``python -m tests.sweeps.killed_processes``.

One after the other, or those named on the command line: two torchruns of two processes, one of them killed
with its processes (``nodes``); a torchrun killed while a fold is pretrained, a third of the patients without
a label (``pretraining``), and the same with ``--jobs 2`` (``jobs``); and a run launched on three machines of
a Ray cluster, one of which is lost (``cluster``). Each is run undisturbed too, and both must leave the same
bits. Some minutes each; ``cluster`` needs that extra.
"""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from medmm.cohort.synthetic import synthesize
from tests.conftest import RECIPE, Machines

SMALL = RECIPE + "folds: {repeats: 1}\n"
LONG = SMALL + "pretraining: {objective: contrastive, epochs: 1500, batch_size: 16}\n"
"""Long enough for a checkpoint of its pretraining, which is written every ten seconds."""

Started = list[subprocess.Popen[bytes]]
Command = Callable[[Path, str, Sequence[str]], Started]


def main() -> None:
    """Run, kill, take up and compare; exit 1 where anything differs."""
    asked = sys.argv[1:] or list(WAYS)
    alike = []
    for way in asked:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            os.environ["XDG_DATA_HOME"] = str(place / "site")
            os.environ["XDG_CACHE_HOME"] = str(place / "cache")
            synthesize(place / "data", patients=60, seed=1)
            alike.append(WAYS[way](place))
        print(f"{way}: {'the same bits' if alike[-1] else 'DIFFERENT'}", flush=True)
    sys.exit(not all(alike))


def nodes(place: Path) -> bool:
    """Kill one of two nodes once the second fold is begun."""
    (place / "recipe.yaml").write_text(SMALL.replace("epochs: 2", "epochs: 12, batch_size: 7"))

    def lost(running: Started) -> None:
        end(running[1])

    return compared(place, two_torchruns, "fits/fold1/*/done.safetensors", lost)


def pretraining(place: Path) -> bool:
    """Kill a torchrun of two processes in the second fold's pretraining."""
    unlabelled(place)
    return compared(place, torchrun, "fits/fold1/pretraining/checkpoint.safetensors", lambda run: end(run[0]))


def jobs(place: Path) -> bool:
    """Kill a process that has its splits fitted by two others, in their pretraining."""
    unlabelled(place)
    return compared(
        place, side_by_side, "fits/fold1/pretraining/checkpoint.safetensors", lambda run: end(run[0])
    )


def cluster(place: Path) -> bool:
    """Lose one of three machines once the second fold is begun; another one comes in its place."""
    (place / "recipe.yaml").write_text(SMALL.replace("epochs: 2", "epochs: 12, batch_size: 7"))
    machines = Machines()
    machines.whole()
    machines.cluster.add_node(num_cpus=1)
    machines.cluster.wait_for_nodes()

    def launched(place: Path, runs: str, more: Sequence[str]) -> Started:
        machines.whole()
        asked = [".", "--root", "data", "--runs", runs, "--processes", "3", "--cluster", machines.address]
        return [begun([sys.executable, "-m", "medmm", "launch", *asked, *more], place)]

    def lost(running: Started) -> None:
        machines.cluster.remove_node(machines.second, allow_graceful=False)
        machines.second = None

    try:
        return compared(place, launched, "fits/fold1/*/done.safetensors", lost)
    finally:
        machines.cluster.shutdown()


WAYS = {"nodes": nodes, "pretraining": pretraining, "jobs": jobs, "cluster": cluster}


def compared(place: Path, command: Command, once: str, lose: Callable[[Started], None]) -> bool:
    """Run undisturbed, and again with something lost once a file is there; tell whether both end alike."""
    assert [one.wait() for one in command(place, "whole", [])].count(0) > 0
    running = command(place, "killed", [])
    while not list(place.glob(f"killed/small-*/{once}")):
        assert all(one.poll() is None for one in running), "it ended before it could be disturbed"
        time.sleep(0.05)
    lose(running)
    print(f"what was left ended with {[one.wait() for one in running]}")
    resumed = command(place, "killed", ["--resume", str(run_of(place, "killed"))])
    assert all(one.wait() == 0 for one in resumed)
    whole, killed = (left(run_of(place, runs)) for runs in ("whole", "killed"))
    return len(whole) > 10 and whole == killed


def left(run: Path) -> dict[str, bytes]:
    """Return the tensors and graphs that a finished run left, by the path in its folder."""
    assert (run / "finished.json").exists()
    files = [*run.glob("fits/**/*.safetensors"), *run.glob("bundle/**/*.safetensors"), *run.rglob("*.onnx")]
    return {file.relative_to(run).as_posix(): file.read_bytes() for file in files}


def unlabelled(place: Path) -> None:
    """Take the label of every third patient, and ask for pretraining."""
    (place / "recipe.yaml").write_text(LONG)
    file = place / "data" / "labels.csv"
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for number, row in enumerate(rows) if number % 3)


def two_torchruns(place: Path, runs: str, more: Sequence[str]) -> Started:
    """Start two nodes of two processes each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = ["--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    return [
        begun([*TORCHRUN, *meeting, "--node-rank", f"{rank}", "-m", *trained(runs, more)], place)
        for rank in range(2)
    ]


def torchrun(place: Path, runs: str, more: Sequence[str]) -> Started:
    """Start two processes on one node."""
    return [begun([*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", *trained(runs, more)], place)]


def side_by_side(place: Path, runs: str, more: Sequence[str]) -> Started:
    """Start one process that has two splits fitted at a time."""
    return [begun([sys.executable, "-m", *trained(runs, [*more, "--jobs", "2"])], place)]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def trained(runs: str, more: Sequence[str]) -> list[str]:
    """Return the training command of a user, after ``python -m``."""
    return ["medmm", "train", ".", "--root", "data", "--runs", runs, *more]


def begun(command: Sequence[str], place: Path) -> subprocess.Popen[bytes]:
    """Start a command in the folder of the recipe."""
    return subprocess.Popen(command, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"})


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those it started, at once, as a machine is lost."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)


def run_of(place: Path, runs: str) -> Path:
    """Return the one run in a folder of runs."""
    return next((place / runs).glob("small-*"))


if __name__ == "__main__":
    main()
