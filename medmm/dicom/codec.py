"""Compressed frames, decoded by pydicom's plug-ins in a process of their own, bounded in memory and time."""

from __future__ import annotations

import atexit
import json
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from medmm.arrays import Array
from medmm.dicom.header import Layout
from medmm.errors import DicomRefusal

WORKER_BYTES = 4 << 30
"""Address space of the process that decodes; a frame at the limit of its size needs about half of it."""
FRAME_SECONDS = 60.0
"""Longest that one frame may take."""
_GRACE_SECONDS = 5.0
"""After so much more, the process that decodes ends itself: nobody may be left to end it."""

_JPEG = "1.2.840.10008.1.2.4."
DECODERS = {
    "1.2.840.10008.1.2.5": ("pylibjpeg", "pylibjpeg-rle"),
    **{_JPEG + end: ("gdcm", "python-gdcm") for end in ("50", "51", "57", "70")},
    **{_JPEG + end: ("pyjpegls", "pyjpegls") for end in ("80", "81")},
    **{_JPEG + end: ("pylibjpeg", "pylibjpeg-openjpeg") for end in ("90", "91", "201", "202", "203")},
}
"""Per transfer syntax, pydicom's plug-in and the package that brings it; one each, so that results are the
same on every machine."""


_WIDEST_VALUE = 8
"""Most bytes of one decoded value."""


def decode_frame(stream: bytes, syntax: str, layout: Layout) -> Array:
    """Decode one compressed frame.

    Returns:
        Integers [row, column] or [row, column, 3] (RGB).

    Raises:
        DicomRefusal: ``corrupt``, ``resource_limit`` or ``unsupported_transfer_syntax``.
    """
    plugin, package = DECODERS[syntax]
    options = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "planar_configuration": int(layout.planar),
        "pixel_keyword": "PixelData",
    }
    request = {"syntax": syntax, "plugin": plugin, "options": options}
    values = layout.rows * layout.columns * layout.samples
    reply, payload = _ask(request, stream, values * _WIDEST_VALUE)
    error = reply.get("error", "")
    if error == "ImportError":
        raise DicomRefusal("unsupported_transfer_syntax", f"transfer syntax {syntax}; install {package}")
    if error:
        reason = "resource_limit" if error in ("MemoryError", "TimeoutError") else "corrupt"
        raise DicomRefusal(reason, f"a frame cannot be decoded ({error})")
    return np.frombuffer(payload, np.dtype(reply["dtype"])).reshape(reply["shape"])


class _Worker:
    """One decoding process, and the pipes to it."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("codec_worker.py"))
        # -P: the script's own folder is no place to import from. A session of its own: Ctrl-C is for the
        # process that asks, which ends this one by closing its input.
        self.process = subprocess.Popen(  # noqa: S603  # this interpreter and a script of this package
            [sys.executable, "-P", script, str(WORKER_BYTES), str(FRAME_SECONDS + _GRACE_SECONDS)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what codecs say may quote the file
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # noqa: PT018
        self.requests, self.replies = self.process.stdin.fileno(), self.process.stdout.fileno()

    def ask(self, request: dict[str, Any], stream: bytes, most: int) -> tuple[dict[str, Any], bytearray]:
        """Return the reply to one request, of at most ``most`` bytes.

        Raises:
            BrokenPipeError: when the process has died.
            EOFError: when it dies, or answers with more than it was asked for.
            TimeoutError: when it takes too long.
        """
        text = json.dumps(request).encode()
        message = memoryview(struct.pack("<II", len(text), len(stream)) + text + stream)
        while message:
            message = message[os.write(self.requests, message) :]
        deadline = time.monotonic() + FRAME_SECONDS
        fields, values = struct.unpack("<II", self._read(8, deadline))
        if fields > _MOST_FIELDS or values > most:
            raise EOFError
        return json.loads(self._read(fields, deadline)), self._read(values, deadline)

    def _read(self, length: int, deadline: float) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            ready, _, _ = select.select([self.replies], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            count = os.readv(self.replies, [rest])
            if count == 0:
                raise EOFError
            rest = rest[count:]
        return data

    def stop(self) -> None:
        """End the process and release what belongs to it."""
        self.process.kill()
        self.release()
        self.process.wait()

    def release(self) -> None:
        """Close this side of the pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


_MOST_FIELDS = 4096
"""Most bytes of JSON in a reply."""
_lock = Lock()
_workers: list[_Worker] = []
"""The worker of this process, when it has one."""


def _ask(request: dict[str, Any], stream: bytes, most: int) -> tuple[dict[str, Any], bytearray]:
    """Ask the worker; a question it does not survive ends it, and the next one gets another."""
    with _lock:
        if not _workers:
            _workers.append(_Worker())
        try:
            return _workers[0].ask(request, stream, most)
        except (BrokenPipeError, EOFError):
            _workers.pop().stop()
            return {"error": "the codec broke down"}, bytearray()
        except TimeoutError:
            _workers.pop().stop()
            return {"error": "TimeoutError"}, bytearray()
        except BaseException:
            _workers.pop().stop()  # interrupted between question and answer: the pipes are out of step
            raise


@atexit.register
def close() -> None:
    """End the decoding process, if there is one; the next frame starts another."""
    with _lock:
        while _workers:
            _workers.pop().stop()


def _forget() -> None:
    """Leave the worker to the process that was forked from."""
    global _lock  # noqa: PLW0603  # a lock held by another thread at the fork would stay held for ever
    _lock = Lock()
    while _workers:
        worker = _workers.pop()
        worker.release()
        worker.process.returncode = 0


os.register_at_fork(after_in_child=_forget)
