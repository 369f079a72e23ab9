"""Run-length and JPEG-LS streams that promise more than they hold: refused by reason, in little memory."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGLSLossless, RLELossless

from medmm.dicom import codec, load
from tests.dicom.conftest import Scanner, encoded

pytestmark = pytest.mark.usefixtures("fresh_codec")

SIDE = 64
LARGE = 14_000
"""Side of the largest images that a header may promise: 196 million pixels."""
MOST_BYTES = 1 << 30
"""Of the decoding process, which holds its interpreter and one frame at the limit of its size twice."""
MOST_HERE = 64 << 20
"""By which this process may grow: less than a large frame."""


def noise(syntax: UID, side: int = SIDE) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side)).astype(np.uint8)
    return encoded(pixels, syntax)


def write(scanner: Scanner, syntax: UID, frame: bytes, **elements: Any) -> Path:
    dataset = scanner.dataset(np.zeros((SIDE, SIDE), np.uint8), syntax=syntax)
    dataset.PixelData = encapsulate([frame])
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return scanner.save(dataset)


def peak_of_the_codec() -> int:
    """Return the most bytes that the decoding process ever held; 0 where none was needed."""
    if not codec._workers:
        return 0
    status = Path(f"/proc/{codec._workers[0].process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def run_length(segment: bytes, *, count: int = 1, offset: int = 64) -> bytes:
    return struct.pack("<16I", count, offset, *[0] * 14) + segment


RUN_LENGTH: dict[str, tuple[bytes, dict[str, int]]] = {
    "a segment beyond the frame": (run_length(b"\x81\0" * 99, offset=0xFFFFFFF0), {}),
    "more segments than a header holds": (run_length(b"\x81\0" * 99, count=0xFFFFFFFF), {}),
    "no segment for one bit": (
        run_length(b"\x81\0" * 99, count=0),
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
    ),
    "large, and two bytes": (run_length(b"\x81\0"), {"Rows": LARGE, "Columns": LARGE}),
    "large, and nothing but no-operations": (
        run_length(b"\x80" * (LARGE * LARGE // 64 + 64)),
        {"Rows": LARGE, "Columns": LARGE},
    ),
    "more than a frame may hold": (run_length(b"\x81\0"), {"Rows": 65535, "Columns": 65535}),
    "short and cut": (noise(RLELossless)[:-500], {}),
    "long and cut": (noise(RLELossless, 512)[:-60_000], {"Rows": 512, "Columns": 512}),
}


@pytest.mark.parametrize("name", RUN_LENGTH)
def test_rule_34_a_run_length_frame_that_promises_too_much(
    scanner: Scanner, refused: Callable[..., Any], name: str
) -> None:
    frame, elements = RUN_LENGTH[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(write(scanner, RLELossless, frame, **elements)).reason in ("corrupt", "resource_limit")
    assert peak_of_the_codec() < MOST_BYTES
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_HERE


@pytest.mark.parametrize("runs", [1_000, 4_000_000])
def test_rule_34_runs_that_unfold_beyond_the_frame_cost_no_more_than_it(scanner: Scanner, runs: int) -> None:
    """Of 128 pixels each: the second stream would be half a gigabyte."""
    path = write(scanner, RLELossless, run_length(b"\x81\x07" * runs))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (load(path).array == 7 - 1024).all()
    assert peak_of_the_codec() < MOST_BYTES
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_HERE


def sized(frame: bytes, rows: int, columns: int) -> bytes:
    """Return a JPEG-LS stream whose frame header states another size."""
    at = frame.index(b"\xff\xf7") + 5
    return frame[:at] + struct.pack(">HH", rows, columns) + frame[at + 4 :]


def frame_header(frame: bytes) -> tuple[int, int]:
    """Return where the frame header of a JPEG-LS stream begins and ends."""
    start = frame.index(b"\xff\xf7")
    return start, start + 2 + struct.unpack_from(">H", frame, start + 2)[0]


def doubled(frame: bytes) -> bytes:
    """Return a stream with a frame header of 65535 × 65535 before its own."""
    start, stop = frame_header(frame)
    return sized(frame, 65535, 65535)[:stop] + frame[start:]


def oversize(frame: bytes) -> bytes:
    """Return a stream whose size stands in an LSE segment of oversize dimensions (ISO 14495-1 C.2.4.1.4)."""
    _, stop = frame_header(frame)
    extended = b"\xff\xf8" + struct.pack(">HBBII", 12, 4, 4, 0x40000000, 0x40000000)
    return sized(frame, 0, 0)[:stop] + extended + frame[stop:]


JPEG_LS: dict[str, tuple[bytes, dict[str, int]]] = {
    "another size than the header's": (sized(noise(JPEGLSLossless), 65535, 65535), {}),
    "large, and a scan of a small image": (
        sized(noise(JPEGLSLossless), LARGE, LARGE),
        {"Rows": LARGE, "Columns": LARGE},
    ),
    "more than a frame may hold": (
        sized(noise(JPEGLSLossless), 65535, 65535),
        {"Rows": 65535, "Columns": 65535},
    ),
    "two frame headers": (doubled(noise(JPEGLSLossless)), {}),
    "oversize dimensions": (oversize(noise(JPEGLSLossless)), {}),
    "cut": (noise(JPEGLSLossless)[:-900], {}),
    "cut, and closed again": (noise(JPEGLSLossless)[:-900] + b"\xff\xd9", {}),
    "nothing but a start": (b"\xff\xd8\xff\xd9", {}),
}


@pytest.mark.parametrize("name", JPEG_LS)
def test_rule_34_a_jpeg_ls_frame_that_promises_too_much(
    scanner: Scanner, refused: Callable[..., Any], name: str
) -> None:
    frame, elements = JPEG_LS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(write(scanner, JPEGLSLossless, frame, **elements)).reason in ("corrupt", "resource_limit")
    assert peak_of_the_codec() < MOST_BYTES
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_HERE


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_the_streams_that_were_damaged_were_whole(scanner: Scanner, syntax: UID) -> None:
    image = load(write(scanner, syntax, noise(syntax)))
    assert image.array.shape == (SIDE, SIDE)
    assert image.array.min() >= -1024
