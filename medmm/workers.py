"""Processes of our own that end with the process that asked for them, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def bound_to_parent() -> None:
    """Let this worker of a pool end once its parent is gone, and leave Ctrl-C to the parent.

    A pool of the standard library ends its workers where its own process ends in order. One that is killed
    leaves them waiting for ever, since each worker holds both ends of the pipe they wait at; what a worker
    started itself, and talks to through a pipe, ends with the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
