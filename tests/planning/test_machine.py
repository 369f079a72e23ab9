"""The least of what the machine and its control groups allow; unknown where neither says."""

from __future__ import annotations

from pathlib import Path

import pytest

from medmm.planning.machine import Machine, side_by_side, this_machine


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\n"}
SECOND = {"proc/self/cgroup": "0::/jobs/one\n", "sys/fs/cgroup/jobs/one/memory.max": "max\n"}
FIRST = {"proc/self/cgroup": "3:cpu:/\n4:memory:/jobs\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MEMINFO, 8 << 30),
        (MEMINFO | SECOND, 8 << 30),
        (MEMINFO | SECOND | {"sys/fs/cgroup/jobs/memory.max": f"{2 << 30}\n"}, 2 << 30),
        (MEMINFO | FIRST | {"sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": f"{3 << 30}\n"}, 3 << 30),
        (MEMINFO | FIRST | {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 8 << 30),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    assert this_machine(_write(tmp_path, files)).memory_bytes == expected


def test_this_machine_has_a_core_and_a_gpu_only_where_there_is_a_device(tmp_path: Path) -> None:
    found = this_machine(tmp_path)
    assert found.cores >= 1
    assert found.accelerator_bytes is None


@pytest.mark.parametrize(
    ("machine", "fits", "expected"),
    [
        (Machine(8 << 30, 2), 5, 2),
        (Machine(None, 2), 5, 2),
        (Machine(8 << 30, 8), 5, None),  # threads would be left without work
        (Machine(8 << 30, 1), 5, None),
        (Machine(2 << 30, 2), 5, None),
        (Machine(8 << 30, 2, accelerator_bytes=80 << 30), 5, None),
    ],
)
def test_every_core_takes_a_fit_where_there_are_enough(
    machine: Machine, fits: int, expected: int | None
) -> None:
    assert side_by_side(machine, fits) == expected
