"""Many series on all cores: one series per worker, results in order, and no bad series costs another."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from medmm.dicom.header import Header, read_header
from medmm.dicom.loading import Loaded, loaded_series, without_array
from medmm.dicom.series import group
from medmm.errors import DicomRefusal

Result = TypeVar("Result")
Work = Callable[[Loaded], Result]

WORKER_BYTES = 16 << 30
"""Address space of a worker: an array at its limit, its slices as stored, and the interpreter."""


def load_many(
    series: Sequence[Sequence[Path]],
    work: Work[Result],
    *,
    processes: int | None = None,
    resample: bool = False,
) -> Iterator[list[Result]]:
    """Load many series and do one piece of work on everything each becomes, in processes of their own.

    A worker holds one volume at a time, and no more series are under way than workers and one waiting for
    each. A worker that dies (a decoder's fault, no memory) costs the series it held, which is refused with
    ``resource_limit``, and no other.

    Args:
        series: the files of each series, as an index lists them.
        work: called in the worker with each :class:`Loaded`; it and what it returns must be picklable, and
            what it returns should be small: a certificate, the path of an array it wrote.
        processes: how many workers; as many as this process may use cores by default, and none with 1.
        resample: see :func:`medmm.dicom.load`.

    Yields:
        Per series, in the order given, the results of its volumes and refusals.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(series))
    if count <= 1:
        for files in series:
            yield _one(files, work, resample)
        return
    waiting: deque[tuple[Sequence[Path], Future[list[Result]]]] = deque()
    rest: Iterator[Sequence[Path]] = iter(series)
    pool = _pool(count)
    try:
        while True:
            while len(waiting) < 2 * count and (item := next(rest, None)) is not None:
                waiting.append((item, pool.submit(_one, item, work, resample)))
            if not waiting:
                return
            files, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False, cancel_futures=True)
                yield _alone(files, work, resample)
                pool = _pool(count)
                waiting = deque((held, pool.submit(_one, held, work, resample)) for held, _ in waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _one(files: Sequence[Path], work: Work[Result], resample: bool) -> list[Result]:
    return [work(loaded) for loaded in read_series(files, resample=resample)]


def _alone(files: Sequence[Path], work: Work[Result], resample: bool) -> list[Result]:
    """Do one series again in a worker of its own: whether it was the one that broke the pool shows here."""
    with _pool(1) as pool:
        try:
            return pool.submit(_one, files, work, resample).result()
        except BrokenProcessPool:
            detail = "the process that read the series died"
            paths = tuple(Path(file) for file in files)
            return [work(without_array("refused", "resource_limit", paths, [], detail=detail))]


def _pool(count: int) -> ProcessPoolExecutor:
    # Neither threads nor open decoders of this process are copied into the workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medmm.dicom.parallel"])
    return ProcessPoolExecutor(count, mp_context=context, initializer=_bound)


def _bound() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = WORKER_BYTES if most == resource.RLIM_INFINITY else min(WORKER_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
