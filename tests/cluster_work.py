"""Work that the tests of the cluster send out; a worker finds it by this name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from medmm.errors import DataError


def squared(item: int) -> int:
    return item * item


def poisonous(item: int) -> str:
    """End the process at item 3."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{item} done"


def refusing(item: str) -> str:
    if item.startswith("MRN"):
        raise DataError("a table is malformed")
    return item


def once_killed(item: tuple[str, int]) -> int:
    """Die in the first try of every fourth item."""
    folder, number = item
    tried = Path(folder) / f"{number}"
    if number % 4 == 0 and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow(item: tuple[str, int]) -> int:
    folder, number = item
    (Path(folder) / f"began-{number}").touch()
    time.sleep(60)
    (Path(folder) / f"ended-{number}").touch()
    return number


def fitted(folder: str, progress: Callable[[str, int, int], None]) -> tuple[str, str, dict[str, list[float]]]:
    """Fit a small network with the others; return the machine, the rank and the weights."""
    import ray

    from medmm.fitting.loop import fit_network
    from tests.fitting.small_fit import small_job
    from tests.fitting.test_processes import ASKED

    job = small_job(**ASKED)
    if os.environ["RANK"] == "0":
        progress("fitting", 1, 2)
    fit_network(job, Path(folder))
    if os.environ["RANK"] == "0":
        progress("fitting", 2, 2)
    weights = {name: value.flatten().tolist() for name, value in job.network.state_dict().items()}
    return ray.get_runtime_context().get_node_id(), os.environ["RANK"], weights
