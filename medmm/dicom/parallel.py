"""Many series on all cores: one series per worker, results in order, and no bad series costs another."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from medmm.dicom.header import Header, read_header
from medmm.dicom.loading import Loaded, loaded_series, without_array
from medmm.dicom.series import group
from medmm.errors import DicomRefusal
from medmm.workers import bound_to_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Loaded], Result]

WORKER_BYTES = 16 << 30
"""Address space of a worker: an array at its limit, its slices as stored, and the interpreter."""
WORK_SECONDS = 900.0
"""Longest that a worker may take for one array, or refusal, and the work on it."""
_timed_here = False
"""Whether this process is a worker at work: its alarm is ours."""
LOST = "the process that read the series died, or ran out of time or memory"


def load_many(
    series: Sequence[Sequence[Path]],
    work: Work[Result],
    *,
    processes: int | None = None,
    resample: bool = False,
) -> Iterator[list[Result]]:
    """Load many series and do one piece of work on everything each becomes, in processes of their own.

    A worker holds one volume at a time, and no more series are under way than workers and one waiting for
    each. A worker that dies (a decoder's fault, no memory, no end) costs the series it held, which is refused
    with ``resource_limit``, and no other.

    Args:
        series: the files of each series, as an index lists them.
        work: called in the worker with each :class:`Loaded`; it and what it returns must be picklable, and
            what it returns should be small: a certificate, the path of an array it wrote.
        processes: how many workers; as many as this process may use cores by default, and none with 1.
        resample: see :func:`medmm.dicom.load`.

    Yields:
        Per series, in the order given, the results of its volumes and refusals.
    """
    count = min(processes or _cores(), len(series))
    if count <= 1:
        for files in series:
            yield _one(work, resample, files)
        return
    yield from each_bounded(partial(_one, work, resample), series, lost=partial(_lost, work), processes=count)


def each_bounded(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    lost: Callable[[Item], Result],
    processes: int | None = None,
) -> Iterator[Result]:
    """Yield what a piece of work makes of each item, in order, in processes bounded in memory and time.

    Args:
        work: called in a worker, which ends after :data:`WORK_SECONDS` unless the work calls
            :func:`more_time`; it, the items and what it returns must be picklable.
        items: in the order of the results.
        lost: what becomes of an item whose worker died, twice; called in this process.
        processes: how many workers; as many as this process may use cores by default.
    """
    count = max(1, min(processes or _cores(), len(items)))
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    rest: Iterator[Item] = iter(items)
    pool = _pool(count)
    try:
        while True:
            while len(waiting) < 2 * count:
                try:
                    item = next(rest)
                except StopIteration:
                    break
                waiting.append((item, _submit(pool, work, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False, cancel_futures=True)
                yield _alone(work, item, lost)
                pool = _pool(count)
                waiting = deque((held, _submit(pool, work, held)) for held, _ in waiting)
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers of a pool whose results nobody waits for any more: an interrupt, an error."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.terminate()


def more_time() -> None:
    """Begin the time of a worker anew; without effect outside one."""
    if _timed_here:
        signal.setitimer(signal.ITIMER_REAL, WORK_SECONDS)


def read_series(files: Sequence[Path], *, resample: bool = False) -> Iterator[Loaded]:
    """Load the files of one series; every one of them stands in at least one result."""
    headers: list[Header] = []
    refused: list[tuple[Path, DicomRefusal]] = []
    for file in files:
        try:
            headers.append(read_header(Path(file)))
        except DicomRefusal as refusal:
            refused.append((Path(file), refusal))
    for members in group(headers).values():
        yield from loaded_series(members, resample=resample)
    for file, why in refused:
        yield without_array("refused", why.reason, (file,), [], detail=why.detail)


def _one(work: Work[Result], resample: bool, files: Sequence[Path]) -> list[Result]:
    results = []
    for loaded in read_series(files, resample=resample):
        results.append(work(loaded))
        more_time()
    return results


def _lost(work: Work[Result], files: Sequence[Path]) -> list[Result]:
    paths = tuple(Path(file) for file in files)
    return [work(without_array("refused", "resource_limit", paths, [], detail=LOST))]


def _submit(pool: ProcessPoolExecutor, work: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Hand an item to a worker, which a submission may start.

    A worker runs the script of this process again, to find what it defines. It is kept from it where nothing
    of the work is defined there: a script that trains a model would train it once more in every worker.
    """
    main = sys.modules["__main__"]
    if b"__main__" not in pickle.dumps(work):
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        return pool.submit(_timed, work, item)
    finally:
        sys.modules["__main__"] = main


def _timed(work: Callable[[Item], Result], item: Item) -> Result:
    """Do one piece of work in a worker; nothing handles the alarm, so that it ends even a hung decoder."""
    global _timed_here  # noqa: PLW0603  # of a worker, which does one thing at a time
    signal.setitimer(signal.ITIMER_REAL, WORK_SECONDS)
    _timed_here = True
    try:
        return work(item)
    finally:
        _timed_here = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def _alone(work: Callable[[Item], Result], item: Item, lost: Callable[[Item], Result]) -> Result:
    """Do one item again in a worker of its own: whether it was the one that broke the pool shows here."""
    with _pool(1) as pool:
        try:
            return _submit(pool, work, item).result()
        except BrokenProcessPool:
            return lost(item)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _pool(count: int) -> ProcessPoolExecutor:
    # Neither threads nor open decoders of this process are copied into the workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medmm.dicom.parallel"])
    return ProcessPoolExecutor(count, mp_context=context, initializer=_bound, initargs=(WORK_SECONDS,))


def _bound(seconds: float) -> None:
    global WORK_SECONDS  # noqa: PLW0603  # the workers keep the limit of the process that started them
    WORK_SECONDS = seconds
    bound_to_parent()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = WORKER_BYTES if most == resource.RLIM_INFINITY else min(WORKER_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
