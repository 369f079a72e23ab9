"""What the machine has: the least of what the hardware and the control groups allow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

WORKER_BYTES = 3 << 29
"""Memory of a process that fits small networks: torch, MONAI, a batch and what it holds of the images."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a fit may use.

    Attributes:
        memory_bytes: of the machine, or of the container if that is less; None where neither says.
        cores: that this process may use.
        accelerator_bytes: of the first GPU's memory; None without one.
    """

    memory_bytes: int | None
    cores: int
    accelerator_bytes: int | None = None


def this_machine(root: Path = Path("/")) -> Machine:
    """Return what this machine has.

    Args:
        root: where ``proc``, ``sys`` and ``dev`` lie.
    """
    known = [bytes_ for bytes_ in (_installed(root), *_allowed(root)) if bytes_]
    return Machine(min(known, default=None), _cores(), _accelerator(root))


def side_by_side(machine: Machine, fits: int) -> int | None:
    """Return how many independent fits should run at a time, each on one thread; None for one on all threads.

    A small network gains little from a second thread, so every core takes a fit of its own where there are
    enough fits and enough memory; a GPU takes one after the other.
    """
    room = machine.memory_bytes is None or machine.memory_bytes >= machine.cores * WORKER_BYTES
    return machine.cores if fits >= machine.cores > 1 and room and not machine.accelerator_bytes else None


def _installed(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:") and line.split()[1].isdigit():
            return int(line.split()[1]) * 1024
    return None


def _allowed(root: Path) -> list[int]:
    """Return the limits of the process's control group and of those above it, versions 2 and 1."""
    base, found = root / "sys/fs/cgroup", []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = base if not controllers else base / "memory"
        place = top / path.lstrip("/")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folders = [folder for folder in (place, *place.parents) if folder.is_relative_to(top)]
        limits = [_text(folder / name).strip() for folder in folders]
        found += [int(limit) for limit in limits if limit.isdigit()]
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _accelerator(root: Path) -> int | None:
    if not any((root / "dev").glob("nvidia[0-9]*")):
        return None  # torch takes seconds to import, and would say the same
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)
