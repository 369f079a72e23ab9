"""Splits in processes of their own: the same bits, memory maps by name, and failures that are said."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmm.errors import FittingError
from medmm.fitting.ahead import Split, _tell, fit_ahead, one_thread
from medmm.fitting.crossval import repeat
from medmm.fitting.inputs import Prepared
from medmm.recipe import Concat, LateMean
from tests.conftest import REPOSITORY
from tests.fitting.test_candidates import problem


def digests(work: Path) -> dict[str, str]:
    return {
        file.relative_to(work).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in work.rglob("done.safetensors")
    }


def test_two_at_a_time_are_the_same_bits_as_one_after_the_other(tmp_path):
    told: list[tuple[str, int]] = []
    asked = {"patients": 80, "comparison": {"fusions": ["late_mean"]}}
    one = problem(tmp_path / "one", Concat(), **asked)
    two = replace(problem(tmp_path / "two", Concat(), **asked), on_epoch=lambda *said: told.append(said[:2]))
    folds, more = np.arange(80) % 2, [np.arange(80) // 2 % 2]
    with one_thread():
        first = repeat(one, folds, more)
        second = repeat(two, folds, more, jobs=2)
    assert digests(one.work) == digests(two.work)
    fits = {name.removesuffix("/done.safetensors") for name in digests(two.work)}
    assert {name for name, _ in told} == fits
    last = two.recipe.fitting.epochs - 1
    assert {name for name, epoch in told if epoch == last} == fits
    for model in first.logits:
        assert first.repeated(model).tobytes() == second.repeated(model).tobytes()


def test_a_fit_is_told_of_before_it_ends_and_once_it_has_ended_as_its_last_epoch(tmp_path):
    told: list[tuple[str, int]] = []
    given = replace(problem(tmp_path, Concat()), on_epoch=lambda *said: told.append(said[:2]))
    epochs = multiprocessing.get_context("forkserver").SimpleQueue()
    epochs.put(("fold0/fused", 0))
    epochs.put(("fold1/fused", 0))
    ended = given.work / "fold1" / "fused" / "done.safetensors"
    ended.parent.mkdir(parents=True)
    ended.touch()
    _tell(given, set(), epochs)
    assert told == [("fold1/fused", given.recipe.fitting.epochs - 1), ("fold0/fused", 0)]


def held(entry: Prepared) -> tuple[str, bytes]:
    return type(entry.array).__name__, entry.array.tobytes()


def test_a_worker_is_sent_the_name_of_a_memory_map_and_not_its_bytes(tmp_path):
    values = np.arange(240_000, dtype=np.float16).reshape(2, 300, 400)
    np.save(tmp_path / "images.npy", values)
    entry = Prepared(np.load(tmp_path / "images.npy", mmap_mode="r"), np.array([0, 1]), ("", ""))
    assert len(pickle.dumps(entry)) < 2000 < entry.array.nbytes
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        assert pool.submit(held, entry).result() == ("memmap", values.tobytes())
        plain = replace(entry, array=np.ones(3))
        assert pool.submit(held, plain).result() == ("ndarray", np.ones(3).tobytes())


def test_what_cannot_be_fitted_is_said_as_in_one_process(tmp_path):
    given = problem(tmp_path, LateMean(), patients=40)
    given.labels[:] = 0
    with pytest.raises(FittingError, match="0 positive of 20 patients"):
        fit_ahead(given, [Split(np.arange(20), "fold0")], jobs=1)


def test_a_worker_does_not_outlive_who_asked_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from medmm.fitting.ahead import Split, fit_ahead\n"
        "from medmm.recipe import Concat\n"
        "from tests.fitting.test_candidates import problem\n"
        "long = {'epochs': 9999, 'patience': 9999}\n"
        "given = problem(Path(sys.argv[1]), Concat(), patients=40, fitting=long)\n"
        "fit_ahead(given, [Split(np.arange(40), 'fold0')], jobs=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "fold0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "fold0").exists()
    deadline = time.monotonic() + 60
    while (left := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _session(leader: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(int(file.parent.name))
    return found
