from __future__ import annotations

import resource
from pathlib import Path

import torch

from medmm.fitting.memory import pages_kept

BLOCK, PAGES = 40 << 20, (40 << 20) // resource.getpagesize()
"""A block of more bytes than glibc keeps by itself, and the pages that it takes."""


def zeroed(times: int) -> int:
    """Ask for a block and free it; return how many pages the system had to fill with zeros."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def held() -> int:
    """Return the resident bytes of this process."""
    resident = Path("/proc/self/statm").read_text().split()[1]
    return int(resident) * resource.getpagesize()


def test_a_freed_block_is_asked_for_again_without_new_pages():
    assert zeroed(5) > 4 * PAGES
    with pages_kept():
        zeroed(10)  # the first ones leave splinters beside them, which do not fit the next
        assert zeroed(5) < PAGES
    assert zeroed(5) > 4 * PAGES


def test_what_was_kept_is_given_back():
    before = held()
    with pages_kept():
        zeroed(1)
        assert held() > before + BLOCK // 2
    assert held() < before + BLOCK // 2
