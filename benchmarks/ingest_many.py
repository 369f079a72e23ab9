"""Many series at once: the wall time of two workers beside one, the CPU they use, the memory of each.

The claims: two workers keep more than 1.5 cores busy, are at least 1.5 times as fast as one on a quiet
machine, use at most 1.3 times its CPU, return what it returns in the same order, and a worker's memory does
not grow with the number of series. Cores are counted as the time that workers run, or are ready to run and
wait for other work on the machine, over wall time; so that count holds on a shared machine too, and the wall
ratio is judged only where the load was low when the run began.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ingest_ct import write_series

CLAIMED_CORES = 1.5
CLAIMED_SPEED = 1.5
CLAIMED_CPU = 1.3
CLAIMED_GROWTH = 1.3
QUIET_LOAD = 0.5
SERIES, SLICES, SIDE, ROUNDS = 24, 64, 384, 3


def main() -> None:
    """Measure and print; exit 1 when a claim does not hold."""
    os.environ["OMP_NUM_THREADS"] = "1"
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folders = [write_series(Path(place) / f"{n}", SLICES, SIDE, seed=n) for n in range(SERIES)]
        series = [sorted(folder.iterdir()) for folder in folders]
        few, _, _ = ingest(series[:4], 2)
        rounds = [(ingest(series, 1), ingest(series, 2)) for _ in range(ROUNDS)]
    one, two = zip(*rounds, strict=True)
    speed = statistics.median(alone[1] / both[1] for alone, both in rounds)
    cpu = statistics.median(both[2] / alone[2] for alone, both in rounds)
    busy = statistics.median(sum(waited for _, waited, _ in found) / wall for found, wall, _ in two)
    growth = max(memory for found, *_ in two for *_, memory in found) / max(memory for *_, memory in few)
    same = len({tuple(sha for sha, *_ in found) for found, *_ in (*one, *two)}) == 1
    quiet = load < QUIET_LOAD
    print(f"{SERIES} series of {SLICES} slices, {SIDE} x {SIDE}, with digests; load {load:.1f} at the start")
    for name, runs in (("one worker ", one), ("two workers", two)):
        walls, cpus = [run[1] for run in runs], [run[2] for run in runs]
        print(f"  {name}: wall {statistics.median(walls):.2f} s, CPU {statistics.median(cpus):.2f} s")
    print(f"  {busy:.2f} cores busy, claimed at least {CLAIMED_CORES}")
    said = "claimed at least" if quiet else "a loaded machine, so not judged against"
    print(f"  {speed:.2f} times as fast in wall time, {said} {CLAIMED_SPEED}")
    print(f"  {cpu:.2f} times the CPU, claimed at most {CLAIMED_CPU}")
    print(f"  peak of a worker {growth:.2f} times that of four series, claimed at most {CLAIMED_GROWTH}")
    print(f"  the same results in the same order: {same}")
    good = busy >= CLAIMED_CORES and cpu <= CLAIMED_CPU and growth <= CLAIMED_GROWTH and same
    good = good and (speed >= CLAIMED_SPEED or not quiet)
    print("holds" if good else "DOES NOT HOLD")
    if not good:
        sys.exit(1)


def ingest(series: list[list[Path]], workers: int) -> tuple[list[tuple[str, float, int]], float, float]:
    """Return what each series gave, and the workers' wall and CPU seconds, their start included."""
    from medmm.dicom.parallel import each_bounded

    started = time.perf_counter()
    results = list(each_bounded(digest, series, lost=_lost, processes=workers))
    wall = time.perf_counter() - started
    return [result[:3] for result in results], wall, _cpu(results)


def _cpu(results: list[tuple[str, float, int, float, int]]) -> float:
    """Return the CPU seconds of the workers, by the last figure that each of them gave."""
    last: dict[int, float] = {}
    for *_, spent, worker in results:
        last[worker] = max(last.get(worker, 0.0), spent)
    return sum(last.values())


def _lost(files: list[Path]) -> tuple[str, float, int, float, int]:
    raise AssertionError(f"a worker died over {len(files)} files")


def digest(files: list[Path]) -> tuple[str, float, int, float, int]:
    """Return a series' digest, the seconds since the last one in which this worker ran or could have, its
    peak of memory, its CPU seconds so far, and which worker it is."""
    from medmm.dicom.parallel import read_series

    (content,) = [loaded.certificate.sha256 for loaded in read_series(files)]
    running, waiting, _ = map(int, Path("/proc/self/schedstat").read_text().split())
    ready = (running + waiting) / 1e9
    seconds, digest.before = ready - getattr(digest, "before", 0.0), ready
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return content, seconds, peak, time.process_time(), os.getpid()


if __name__ == "__main__":
    main()
