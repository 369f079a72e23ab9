from __future__ import annotations

import json
import subprocess
import sys

MEASURED = """
import ctypes, json, resource
from pathlib import Path
import torch
from medmm.fitting.memory import pages_kept

class Heap(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]

heap = ctypes.CDLL(None).mallinfo2
heap.restype = Heap

def mapped():
    before = heap().hblkhd
    block = torch.ones(256 << 20, dtype=torch.uint8)
    return (heap().hblkhd - before) >> 20

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

begun, before = held(), mapped()
with pages_kept():
    within, kept = mapped(), held() - begun
print(json.dumps([before, within, mapped(), kept, held() - begun]))
"""
"""MB of a block of 256 MB that are mapped for it alone before, within and after, and MB held once it is
freed within and after, in a process of its own."""


def test_a_freed_block_is_kept_for_the_next_and_given_back_at_the_end():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    before, within, after, kept, left = json.loads(done.stdout)
    assert before >= 256
    assert within == 0
    assert after >= 256
    assert kept >= 200
    assert left < 100
