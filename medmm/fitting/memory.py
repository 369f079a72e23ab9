"""Memory of a fit: what it will ask for again is kept; where it ends, less is done at once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from medmm.arrays import Ints
from medmm.errors import FittingError

ENDED = ("DefaultCPUAllocator", "could not create a primitive")
"""In the message of the RuntimeError where a CPU's memory ends: torch's own, and oneDNN's."""

TRIM, MAPPED_FROM, MAPPED = -1, -3, -4
"""Numbers of glibc's settings (``mallopt(3)``): free bytes at the top of the heap that go back to the
system, the smallest block that is mapped alone, and how many may be."""

Part = TypeVar("Part")


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that memory ended, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in ENDED
    )


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn the end of memory into a refusal in these words.

    Raises:
        FittingError: if memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise FittingError(what) from error


def in_batches(run: Callable[[Ints], Part], patients: Ints, size: int) -> list[Part]:
    """Return what ``run`` makes of the patients, ``size`` at a time, or fewer once memory runs out.

    Raises:
        FittingError: if it runs out with a single patient.
    """
    found: list[Part] = []
    at = 0
    while at < len(patients):
        rows = patients[at : at + size]
        try:
            found.append(run(rows))
            at += len(rows)
            continue
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            if len(rows) == 1:
                raise FittingError(
                    "memory runs out with one patient at a time; make the encoder or its input smaller"
                    " (`shape`, `channels`), or give the process more memory"
                ) from error
        size = (len(rows) + 1) // 2
        release()
    return found


def release() -> None:
    """Give a GPU's cached blocks back, in which nothing larger fits."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def pages_kept() -> Iterator[None]:
    """Keep the memory that is freed inside the block for what asks next, and give it back at the end.

    A step asks for the blocks that the step before has freed. Left alone, glibc maps each one above 32 MB
    anew, and the system fills it with zeros page by page: 0.13 of the CPU seconds of a 3-D ResNet10's step.
    Nothing is done where the C library has no such settings. One block does not stand within another, whose
    end would be the end of both.
    """
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    library.mallopt(MAPPED, 0)
    library.mallopt(TRIM, -1)
    try:
        yield
    finally:
        library.mallopt(MAPPED, 1 << 16)  # glibc's own numbers; these two it raises to 32 and 64 MB by itself
        library.mallopt(MAPPED_FROM, 32 << 20)
        library.mallopt(TRIM, 64 << 20)
        library.malloc_trim(0)
