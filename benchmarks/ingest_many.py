"""Many series at once: how many cores are at work, and the memory of each worker.

The claims: two workers keep more than 1.5 cores busy, return what one process returns in the same order, and
a worker's memory does not grow with the number of series. Cores are counted as the time that workers run, or
are ready to run and wait for other work on the machine, over wall time.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ingest_ct import write_series

CLAIMED_CORES = 1.5
CLAIMED_GROWTH = 1.3
SERIES, SLICES, SIDE = 16, 64, 384


def main() -> None:
    """Measure and print; exit 1 when a claim does not hold."""
    from medmm.dicom import load_many

    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as place:
        folders = [write_series(Path(place) / f"{n}", SLICES, SIDE, seed=n) for n in range(SERIES)]
        series = [sorted(folder.iterdir()) for folder in folders]
        alone = [digests for ((digests, _, _),) in load_many(series, digest, processes=1)]
        few = [result for (result,) in load_many(series[:4], digest, processes=2)]
        started = time.perf_counter()
        many = [result for (result,) in load_many(series, digest, processes=2)]
        wall = time.perf_counter() - started
    busy = sum(seconds for _, seconds, _ in many) / wall
    growth = max(memory for *_, memory in many) / max(memory for *_, memory in few)
    same = [digests for digests, _, _ in many] == alone
    print(f"{SERIES} series of {SLICES} slices, {SIDE} x {SIDE}, with digests: {wall:.2f} s")
    print(f"  {busy:.2f} cores busy, claimed at least {CLAIMED_CORES}")
    print(f"  peak of a worker {growth:.2f} times that of four series, claimed at most {CLAIMED_GROWTH}")
    print(f"  the same results in the same order: {same}")
    good = busy >= CLAIMED_CORES and growth <= CLAIMED_GROWTH and same
    print("holds" if good else "DOES NOT HOLD")
    if not good:
        sys.exit(1)


def digest(loaded: object) -> tuple[str, float, int]:
    """Return an array's digest, the seconds since the last one in which this worker ran or could have, and
    its peak of memory."""
    content = loaded.certificate.sha256
    running, waiting, _ = map(int, Path("/proc/self/schedstat").read_text().split())
    ready = (running + waiting) / 1e9
    seconds, digest.before = ready - getattr(digest, "before", 0.0), ready
    return content, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
