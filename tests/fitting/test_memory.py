from __future__ import annotations

import json
import subprocess
import sys

MEASURED = """
import json, resource
from pathlib import Path
import torch
from medmm.fitting.memory import pages_kept

PAGE = resource.getpagesize()

def asked(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(128 << 20, dtype=torch.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * PAGE >> 20

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE >> 20

begun, before = held(), asked(5)
with pages_kept():
    asked(10)  # the first ones leave splinters beside them, which do not fit the next
    within, kept = asked(5), held() - begun
print(json.dumps([before, within, asked(5), kept, held() - begun]))
"""
"""MB that the system fills with zeros for five blocks of 128 MB before, within and after, and MB held within
and after, in a process whose heap has no such block free."""


def test_a_freed_block_is_asked_for_again_without_new_pages_and_given_back_at_the_end():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    before, within, after, kept, left = json.loads(done.stdout)
    assert before >= 640
    assert within < 64
    assert after >= 640
    assert kept >= 128
    assert left < 64
