"""Work that the tests of the cluster send out; a worker finds it by this name."""

from __future__ import annotations

import os
import signal
import time
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
