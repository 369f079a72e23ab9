"""Workers of a pool, and what they started, after the process that asked for them was ended from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

WORK = """
import sys
from pathlib import Path
from medmm.dicom.parallel import each_bounded
from tests.test_workers import decoding

print(list(each_bounded(decoding, [Path(sys.argv[1]) / name for name in "ab"], lost=repr, processes=2)))
"""


def decoding(place: Path) -> None:
    """Start a decoding process as the first compressed frame does, say which it is, and be long at work."""
    from medmm.dicom import codec

    codec._workers.append(codec._Worker())
    place.write_text(f"{os.getpid()} {codec._workers[0].process.pid}")
    time.sleep(300)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_neither_a_worker_nor_its_decoder_outlives_who_asked(tmp_path: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, tmp_path], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        told = [file.read_text().split() for file in tmp_path.iterdir()]
        if len(told) == 2 and all(len(pair) == 2 for pair in told):
            break
        time.sleep(0.05)
    pids = [int(pid) for pair in told for pid in pair]
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids)
    process.send_signal(how)
    assert process.wait(timeout=60) == -how
    deadline = time.monotonic() + 60
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
