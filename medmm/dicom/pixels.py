"""Decoding the pixels of one object, frame by frame, within bounds known before anything is allocated."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from medmm.arrays import Array
from medmm.dicom import tags
from medmm.dicom.codec import DECODERS, decode_frame
from medmm.dicom.codestream import JPEG2000, check_codestream
from medmm.dicom.elements import PixelPlace
from medmm.dicom.header import Header, Layout
from medmm.dicom.parse import (
    DEFLATED_LITTLE,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    GE_IMPLICIT_BIG_PIXELS,
    IMPLICIT_LITTLE,
    MAX_INFLATED_BYTES,
    inflate,
)
from medmm.dicom.rle import RLE_LOSSLESS, SHORT_BYTES, decode_short
from medmm.errors import DicomRefusal

MAX_OBJECT_BYTES = 4 << 30
"""Most bytes that the decoded frames of one object may take."""

NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED_LITTLE, GE_IMPLICIT_BIG_PIXELS})


def stored_frames(header: Header, layout: Layout, frames: Sequence[int]) -> Iterator[Array]:
    """Yield the stored values of some frames, before any rescale or look-up table.

    Yields:
        Integers [row, column] or [row, column, 3] (RGB, whatever the stored colour space); unsigned or
        signed as PixelRepresentation says, unused high bits removed.

    Raises:
        DicomRefusal: ``corrupt``, ``no_pixel_data``, ``unsupported_transfer_syntax`` or ``resource_limit``.
    """
    place = check_place(header, layout)
    try:
        source = _Source(header)
        try:
            if header.parsed.transfer_syntax in NATIVE:
                yield from _native(source, header, place, layout, frames)
            else:
                yield from _encapsulated(source, header, place, layout, frames)
        finally:
            source.close()
    except OSError as error:
        raise DicomRefusal("corrupt", f"a file cannot be read: {error.strerror}") from None


def check_place(header: Header, layout: Layout) -> PixelPlace:
    """Check that the file holds the pixels its header promises; return their place.

    Raises:
        DicomRefusal: see :func:`stored_frames`.
    """
    place, syntax = header.pixels, header.parsed.transfer_syntax
    if place is None:
        reason = "corrupt" if header.parsed.truncated else "no_pixel_data"
        raise DicomRefusal(reason, "the header ends before PixelData")
    if syntax not in NATIVE and syntax not in DECODERS:
        raise DicomRefusal(
            "unsupported_transfer_syntax", f"{_shown(syntax)}; no decoder among medmm's dependencies"
        )
    if place.tag != tags.PIXELS:
        raise DicomRefusal("unsupported_sop", "floating-point pixels")
    if layout.photometric in ("YBR_RCT", "YBR_ICT") and syntax not in JPEG2000:
        raise DicomRefusal("unsupported_photometric", f"{layout.photometric} outside JPEG 2000")
    if place.length == 0:
        raise DicomRefusal("no_pixel_data", "PixelData is empty")
    if place.encapsulated == (syntax in NATIVE):
        raise DicomRefusal("corrupt", "the transfer syntax and the form of PixelData contradict each other")
    needed = -(-layout.frame_bytes * 8 * layout.frames // 8)
    if layout.bits_allocated == 1:
        needed = -(-layout.rows * layout.columns * layout.frames // 8)
    if syntax in NATIVE and min(place.available, place.length) < needed:
        raise DicomRefusal("corrupt", f"the pixels need {needed} bytes, the file has {place.available}")
    if needed > MAX_OBJECT_BYTES:
        raise DicomRefusal("resource_limit", f"the pixels of one object need {needed} bytes")
    return place


def _shown(syntax: str) -> str:
    """Return a transfer syntax for a message; only what a UID may hold is shown."""
    return (
        f"transfer syntax {syntax[:64]}"
        if syntax and not syntax.strip("0123456789.")
        else "no transfer syntax"
    )


class _Source:
    """The bytes of one object while its frames are decoded; a deflated data set is unfolded once."""

    def __init__(self, header: Header) -> None:
        self.file = os.open(header.path, os.O_RDONLY | os.O_CLOEXEC)
        self.data: bytes | None = None
        at = header.parsed.deflated_at
        if at is not None:
            self.data = inflate(os.pread(self.file, MAX_INFLATED_BYTES, at))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes."""
        data = (
            os.pread(self.file, length, offset) if self.data is None else self.data[offset : offset + length]
        )
        if len(data) != length:
            raise DicomRefusal("corrupt", "a file ends inside its pixels")
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)


def _native(
    source: _Source, header: Header, place: PixelPlace, layout: Layout, frames: Sequence[int]
) -> Iterator[Array]:
    _check_trailing(source, place, layout)
    if layout.bits_allocated == 1:
        yield from _bits(source, place, layout, frames)
        return
    big = header.parsed.big_endian or header.parsed.transfer_syntax == GE_IMPLICIT_BIG_PIXELS
    code = f"{'>' if big else '<'}{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}"
    # Big-endian 8-bit pixels of VR OW are written as words (PS3.5 8.1.2), which frames may share.
    swapped = header.parsed.big_endian and layout.bits_allocated == 8 and place.vr == b"OW"
    for frame in frames:
        first, length = frame * layout.frame_bytes, layout.frame_bytes
        if swapped:
            odd = first % 2
            words = source.read(place.offset + first - odd, length + odd + (length + odd) % 2)
            data = np.frombuffer(words, "u2").byteswap().tobytes()[odd : odd + length]
        else:
            data = source.read(place.offset + first, length)
        yield _shape_native(np.frombuffer(data, np.dtype(code)), layout)


def _shape_native(values: Array, layout: Layout) -> Array:
    if layout.photometric == "YBR_FULL_422":
        return _rgb(_upsampled(values, layout))
    if layout.samples == 1:
        return _unused_bits_removed(values.reshape(layout.rows, layout.columns), layout)
    if layout.planar:
        image = values.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0)
    else:
        image = values.reshape(layout.rows, layout.columns, 3)
    return _rgb(image) if layout.photometric == "YBR_FULL" else image


def _check_trailing(source: _Source, place: PixelPlace, layout: Layout) -> None:
    """Refuse pixels beyond those promised: Rows, Columns or frames must be wrong; padding is zeros."""
    needed = layout.frame_bytes * layout.frames
    if layout.bits_allocated == 1:
        needed = -(-layout.rows * layout.columns * layout.frames // 8)
    excess = min(place.length, place.available) - needed
    if excess > 1 and any(source.read(place.offset + needed, excess)):
        raise DicomRefusal("corrupt", f"PixelData holds {excess} bytes more than Rows × Columns × frames")


def _bits(source: _Source, place: PixelPlace, layout: Layout, frames: Sequence[int]) -> Iterator[Array]:
    """Yield bit-packed frames: pixels follow each other, across frames too (PS3.5 8.1.1)."""
    count = layout.rows * layout.columns
    for frame in frames:
        first = frame * count
        start, stop = first // 8, -(-(first + count) // 8)
        packed = np.frombuffer(source.read(place.offset + start, stop - start), np.uint8)
        values = np.unpackbits(packed, bitorder="little")[first - start * 8 :][:count]
        yield values.reshape(layout.rows, layout.columns)


def _unused_bits_removed(values: Any, layout: Layout) -> Array:
    """Return values with the bits above and below the stored ones removed (PS3.5 8.1.1)."""
    unused = values.dtype.itemsize * 8 - layout.bits_stored
    if unused == 0:
        whole: Array = values
        return whole
    moved: Any = values << (unused - layout.shift)
    removed: Array = moved >> unused
    return removed


def _upsampled(values: Array, layout: Layout) -> Array:
    """Return YBR_FULL from YBR_FULL_422: Y1 Y2 Cb Cr for each pair of pixels (PS3.3 C.7.6.3.1.2)."""
    groups = values.reshape(-1, 4)
    image = np.empty((groups.shape[0], 2, 3), values.dtype)
    image[:, :, 0] = groups[:, :2]
    image[:, :, 1:] = groups[:, None, 2:]
    return image.reshape(layout.rows, layout.columns, 3)


def _rgb(image: Array) -> Array:
    """Return RGB of an 8-bit YBR_FULL image [row, column, 3] (PS3.3 C.7.6.3.1.2)."""
    if image.dtype.itemsize != 1:
        raise DicomRefusal("unsupported_photometric", "YBR_FULL of more than 8 bits")
    from pydicom.pixels.processing import convert_color_space

    converted: Array = convert_color_space(image, "YBR_FULL", "RGB")
    return converted


def _encapsulated(
    source: _Source, header: Header, place: PixelPlace, layout: Layout, frames: Sequence[int]
) -> Iterator[Array]:
    syntax = header.parsed.transfer_syntax
    fragments = _fragments(source, place, layout)
    for frame in frames:
        stream = b"".join(source.read(at, length) for at, length in fragments[frame])
        check_codestream(stream, syntax, layout)
        if syntax == RLE_LOSSLESS and len(stream) <= SHORT_BYTES and layout.samples == 1:
            image = decode_short(stream, layout)
        else:
            image = decode_frame(stream, syntax, layout)
        if (
            image.shape[:2] != (layout.rows, layout.columns)
            or image.size != layout.rows * layout.columns * layout.samples
        ):
            raise DicomRefusal("corrupt", "the decoded image is not of the size that the header promises")
        yield _unused_bits_removed(image, layout) if layout.samples == 1 else image


def _fragments(source: _Source, place: PixelPlace, layout: Layout) -> list[list[tuple[int, int]]]:
    """Return per frame the (offset, length) of its fragments (PS3.5 A.4).

    Raises:
        DicomRefusal: ``corrupt`` when the fragments cannot be assigned to the frames.
    """
    offsets, items = _items(source, place)
    if len(items) < layout.frames:
        raise DicomRefusal("corrupt", f"{len(items)} fragments for {layout.frames} frames")
    if layout.frames == 1:
        return [items]
    if len(items) == layout.frames:
        return [[item] for item in items]
    if len(offsets) == layout.frames:
        first = items[0][0] - 8
        starts = [first + offset for offset in offsets] + [items[-1][0] + items[-1][1]]
        groups = [[item for item in items if low <= item[0] - 8 < high] for low, high in pairwise(starts)]
        if all(groups) and sum(map(len, groups)) == len(items):
            return groups
    raise DicomRefusal("corrupt", f"{len(items)} fragments cannot be assigned to {layout.frames} frames")


def _items(source: _Source, place: PixelPlace) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return the basic offset table and the (offset, length) of each fragment."""
    position, end = place.offset, place.offset + place.available
    items: list[tuple[int, int]] = []
    while position + 8 <= end:
        group, element, length = struct.unpack("<HHI", source.read(position, 8))
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000) or position + 8 + length > end:
            raise DicomRefusal("corrupt", "the fragments of PixelData are damaged or cut off")
        items.append((position + 8, length))
        position += 8 + length
        if len(items) > 10 * MAX_OBJECT_BYTES >> 20:
            raise DicomRefusal("resource_limit", "too many fragments")
    else:
        raise DicomRefusal("corrupt", "the file ends inside the fragments of PixelData")
    if len(items) < 2:
        raise DicomRefusal("no_pixel_data", "PixelData holds no fragment")
    at, length = items[0]
    table = source.read(at, length - length % 4)
    return struct.unpack(f"<{len(table) // 4}I", table), items[1:]
