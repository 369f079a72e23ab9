"""What is done where memory ends: less at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from medmm.arrays import Ints
from medmm.errors import FittingError

ENDED = ("DefaultCPUAllocator", "could not create a primitive")
"""In the message of the RuntimeError where a CPU's memory ends: torch's own, and oneDNN's."""

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
