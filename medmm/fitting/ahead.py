"""Several splits at a time, each in a process of its own with one thread.

A small network's step costs more on two threads than on one (on a busy machine of two cores, three epochs of
a small 3-D network took 0.55 CPU seconds on one and 1.9 on two), so a second process is worth more. A worker
leaves its finished fits in the folder of the run, where the cross-validation finds them, and nothing else.

The order of sums depends on the number of threads, and with it the last bits of every weight: a fit on one
thread is the same to the bit whoever runs beside it, and not the same as one on two.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from medmm.arrays import Ints
from medmm.errors import FittingError
from medmm.fitting.candidates import Problem, fit_split
from medmm.workers import bound_to_parent

POLL_SECONDS = 1.0
"""Time between two looks at what is finished."""

_problem: Problem | None = None
"""What this process fits, if it is a worker."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows that are trained on, and the path-safe name of the split."""

    train: Ints
    name: str


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_ahead(problem: Problem, splits: Sequence[Split], *, jobs: int) -> None:
    """Fit every candidate of several splits, ``jobs`` splits at a time; what is finished is left alone.

    Args:
        splits: each becomes one piece of work.
        jobs: processes; a problem's images are shared between them, its tables are not.

    Raises:
        FittingError: if a split cannot be fitted, or a process died.
    """
    context = multiprocessing.get_context("forkserver")
    epochs = context.SimpleQueue()
    pool = ProcessPoolExecutor(
        min(jobs, len(splits)),
        mp_context=context,
        initializer=_begin,
        initargs=(replace(problem, on_epoch=None), epochs),
    )
    told: set[Path] = set()
    waiting = {pool.submit(_fit, split) for split in splits}
    try:
        while waiting:
            done, waiting = wait(waiting, timeout=POLL_SECONDS)
            for one in done:
                one.result()
            _tell(problem, told, epochs)
    except BaseException as error:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise FittingError(
                "a process that fitted died, most likely for lack of memory; what is finished is kept:"
                " go on with --resume and fewer --jobs"
            ) from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tell(problem: Problem, told: set[Path], epochs: SimpleQueue[tuple[str, int]]) -> None:
    """Report the fits that were finished since the last look, each as its last epoch, and others' epochs."""
    heard = []
    while not epochs.empty():
        heard.append(epochs.get())
    if problem.on_epoch is None:
        return
    done = set(problem.work.rglob("done.safetensors"))
    for file in sorted(done - told):
        problem.on_epoch(_fit_of(problem, file), problem.recipe.fitting.epochs - 1, {})
    told |= done
    finished = {_fit_of(problem, file) for file in told}
    for name, epoch in heard:
        if name not in finished:
            problem.on_epoch(name, epoch, {})


def _fit_of(problem: Problem, file: Path) -> str:
    return file.parent.relative_to(problem.work).as_posix()


def _begin(sent: Problem, epochs: SimpleQueue[tuple[str, int]]) -> None:
    global _problem  # noqa: PLW0603  # of a worker, which fits one problem
    bound_to_parent()  # who resumes a run that was killed writes the same files
    torch.set_num_threads(1)

    def say(name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        epochs.put((name, epoch))

    _problem = replace(sent, on_epoch=say)


def _fit(split: Split) -> None:
    assert _problem is not None
    fit_split(_problem, split.train, split.train[:0], split.name)
