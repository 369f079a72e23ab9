"""A command that hears Ctrl-C, whatever shell the tests were started from."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def interrupted(
    command: Sequence[str],
    *,
    once: Callable[[], object],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    patience: float = 240,
) -> tuple[int, str]:
    """Start a command, interrupt it once something is there, and return its exit code and standard error.

    Args:
        once: asked until it is true, or ``patience`` (seconds) ends.
    """
    process = subprocess.Popen(
        list(command),
        cwd=cwd,
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell's background job, as a CI may be, ignores the interrupt, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + patience
        while not once() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, printed
