"""Real files that make a real decoder hang or eat memory are stopped, and the rest goes on.

A JPEG 2000 header may ask for precincts of two by two pixels: the decoder then keeps books of one entry per
precinct, so that a stream of 160 bytes costs seconds, or gigabytes.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, generate_uid

from medmm.dicom import Certificate, Loaded, codec, load, load_many, parallel, scan, volume
from medmm.dicom.parallel import each_bounded
from medmm.errors import DicomRefusal
from tests.dicom.conftest import encoded

pytestmark = pytest.mark.usefixtures("fresh_codec")

SLOW_SIDE = 512
"""Decoding a bomb of this side takes a tenth of a second of a core to a second."""


def black(side: int) -> bytes:
    return encoded(np.zeros((side, side), np.uint8), JPEG2000Lossless)


def bomb(side: int) -> bytes:
    """The stream of a black image whose COD segment asks for the smallest precincts at every level."""
    whole = black(side)
    start = whole.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", whole, start + 2)
    segment = bytearray(whole[start : start + 2 + length])
    segment[4] |= 1
    segment += b"\x11" * (segment[9] + 1)
    struct.pack_into(">H", segment, 2, len(segment) - 2)
    return whole[:start] + bytes(segment) + whole[start + 2 + length :]


def write(scanner: Any, side: int, z: float = 0.0, make: Callable[[int], bytes] = bomb) -> Path:
    dataset = scanner.dataset(
        np.zeros((side, side), np.uint8), syntax=JPEG2000Lossless, ImagePositionPatient=[0, 0, z]
    )
    dataset.PixelData = encapsulate([make(side)])
    return scanner.save(dataset)


def test_the_files_are_small(scanner):
    assert len(bomb(2048)) < 200


def test_a_frame_without_end_is_stopped_and_the_next_one_decoded(scanner, refused, monkeypatch):
    path = write(scanner, SLOW_SIDE)
    monkeypatch.setattr(codec, "FRAME_SECONDS", 0.2)
    assert refused(path).reason == "resource_limit"
    assert not codec._workers
    monkeypatch.undo()
    assert load(write(scanner, 64, make=black)).array.shape == (64, 64)


def test_frames_that_each_keep_their_time_do_not_add_up_to_for_ever(scanner, refused, monkeypatch):
    for z in range(6):
        write(scanner, SLOW_SIDE // 2, float(z))
    monkeypatch.setattr(volume, "ARRAY_SECONDS", 0.05)
    refusal = refused(scanner.folder)
    assert refusal.reason == "resource_limit"
    assert "of 6 planes" in refusal.detail


def test_a_frame_that_eats_memory_is_stopped_and_the_next_one_decoded(scanner, refused, monkeypatch):
    monkeypatch.setattr(codec, "WORKER_BYTES", 384 << 20)
    assert load(write(scanner, 64, make=black)).array.shape == (64, 64)
    assert refused(write(scanner, 1024)).reason in ("corrupt", "resource_limit")
    assert load(write(scanner, 64, make=black)).array.shape == (64, 64)


def test_a_decoder_that_nobody_waits_for_ends_itself(scanner, monkeypatch):
    monkeypatch.setattr(codec, "FRAME_SECONDS", 0.3)
    monkeypatch.setattr(codec, "_GRACE_SECONDS", 0.0)
    worker = codec._Worker()
    request = b'{"syntax": "1.2.840.10008.1.2.4.90", "plugin": "pylibjpeg", "options": {%s}}' % (
        b'"rows": 2048, "columns": 2048, "number_of_frames": 1, "samples_per_pixel": 1, "bits_allocated": 8,'
        b'"photometric_interpretation": "MONOCHROME2", "bits_stored": 8, "pixel_representation": 0,'
        b'"planar_configuration": 0, "pixel_keyword": "PixelData"'
    )
    hostile = bomb(2048)
    worker.process.stdin.write(struct.pack("<II", len(request), len(hostile)) + request + hostile)
    started = time.monotonic()
    assert worker.process.wait(timeout=30) < 0
    assert time.monotonic() - started < 30
    worker.release()


def certify(loaded: Loaded) -> Certificate:
    return loaded.certificate


def test_a_series_without_end_costs_its_own_result_alone(scanner, monkeypatch):
    slices = 60  # some twenty times what fits into the time
    for z in range(slices):
        write(scanner, 2 * SLOW_SIDE, float(z))
    for _ in range(3):
        scanner.series = generate_uid()
        for z in (0, 2, 4):
            scanner.slice(z)
    monkeypatch.setattr(parallel, "WORK_SECONDS", 2.0)
    series = [[scanner.folder / file for file in entry.files] for entry in scan(scanner.folder).series]
    results = [result for (result,) in load_many(series, certify, processes=2)]
    fates = sorted((result.status, result.reason) for result in results)
    assert fates == [("refused", "resource_limit"), *[("used", "")] * 3]
    (lost,) = (result for result in results if result.status == "refused")
    assert lost.files_refused == slices


def refuse(item: int) -> int:
    raise DicomRefusal("corrupt", f"item {item}")


def test_a_refusal_comes_home_from_a_worker_as_it_left():
    with pytest.raises(DicomRefusal) as caught:
        list(each_bounded(refuse, [7], lost=lost))
    assert (caught.value.reason, caught.value.detail) == ("corrupt", "item 7")


def grab(megabytes: int) -> int:
    return len(bytearray(megabytes << 20)) >> 20


def lost(item: int) -> int:
    return -item


def test_a_worker_without_memory_costs_its_own_item_alone(monkeypatch):
    monkeypatch.setattr(parallel, "WORKER_BYTES", 2 << 30)
    assert list(each_bounded(grab, [1, 2, 3], lost=lost, processes=2)) == [1, 2, 3]
    assert list(each_bounded(grab, [], lost=lost)) == []


def test_the_memory_of_a_worker_is_bounded():
    code = (
        "from medmm.dicom import parallel; import resource\n"
        "parallel._bound(5.0); print(resource.getrlimit(resource.RLIMIT_AS)[0] <= parallel.WORKER_BYTES)\n"
        "try: bytearray(parallel.WORKER_BYTES)\n"
        "except MemoryError: print('refused')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "refused"]
