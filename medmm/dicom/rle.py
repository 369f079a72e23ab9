"""RLE Lossless (PS3.5 annex G) for short frames, in which starting a codec costs more than decoding.

Label maps are such frames: a few hundred runs. Longer frames go to :mod:`medmm.dicom.codec`.
"""

from __future__ import annotations

import struct

import numpy as np

from medmm.arrays import Array
from medmm.dicom.header import Layout
from medmm.errors import DicomRefusal

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
SHORT_BYTES = 16 * 1024
"""Longest frame that is decoded here, in about 0.2 µs per byte."""


def decode_short(stream: bytes, layout: Layout) -> Array:
    """Decode one monochrome frame.

    Args:
        stream: a checked RLE frame of at most :data:`SHORT_BYTES`.
        layout: one sample per pixel, 8, 16 or 32 bits.

    Returns:
        Integers [row, column].

    Raises:
        DicomRefusal: ``corrupt`` when a segment does not fill its plane.
    """
    size, pixels = layout.bits_allocated // 8, layout.rows * layout.columns
    offsets = [*struct.unpack_from(f"<{size}I", stream, 4), len(stream)]
    planes = np.empty((pixels, size), np.uint8)
    for index in range(size):
        plane = _unpacked(stream[offsets[index] : offsets[index + 1]], pixels)
        planes[:, size - 1 - index] = np.frombuffer(
            plane, np.uint8, pixels
        )  # segments begin at the high byte
    kind = "i" if layout.signed else "u"
    return planes.view(f"<{kind}{size}").reshape(layout.rows, layout.columns)


def _unpacked(segment: bytes, length: int) -> bytearray:
    """Return the bytes of one segment, at least ``length`` of them."""
    plane, position = bytearray(), 0
    while len(plane) < length:
        if position >= len(segment):
            raise DicomRefusal("corrupt", "a segment of an RLE frame is too short for the image")
        control = segment[position]
        if control < 128:
            plane += segment[position + 1 : position + 2 + control]
            position += 2 + control
        elif control > 128:
            plane += segment[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    return plane
