"""Walking the data elements of one file (PS3.5 section 7) within fixed bounds of memory, depth and time.

A general parser builds every element of a hostile file before anyone can say no: recursion for nested
sequences, a gigabyte for an inflated one. This walk keeps only the elements that are asked for, steps over
the rest without recursion, and reads a window of the file, not the file. It decodes no pixel.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from medmm.dicom import tags
from medmm.dicom.elements import Elements, Parsed, PixelPlace, text
from medmm.errors import DicomRefusal

WINDOW_BYTES = 32 * 1024
MAX_VALUE_BYTES = 4 * 1024 * 1024
"""Longest value kept of one element (a 16-bit lookup table has 128 KiB)."""
MAX_STEPS = 2_000_000
"""Most elements and items stepped over in one file."""
MAX_INFLATED_BYTES = 256 * 1024 * 1024
"""Most bytes that a deflated file may unfold to."""
MAX_DEPTH = 8
"""Deepest sequence that is kept; functional groups need three levels."""

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
GE_IMPLICIT_BIG_PIXELS = "1.2.840.113619.5.2"
"""GE's private syntax: implicit little-endian elements, big-endian pixels."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_TAGS = frozenset({tags.FLOAT_PIXELS, tags.DOUBLE_PIXELS, tags.PIXELS})
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_VRS = _LONG_VRS | _SHORT_VRS


class _Window:
    """A sliding view of one file; ``data[0]`` is the byte at ``start``."""

    __slots__ = ("_file", "data", "size", "start")

    def __init__(self, file: int | None, data: bytes, size: int) -> None:
        self._file, self.data, self.size, self.start = file, data, size, 0

    def slide(self, position: int) -> int:
        """Move the window so that it begins at ``position``; return the index of that byte."""
        if self._file is None:
            return position
        self.data, self.start = os.pread(self._file, WINDOW_BYTES, position), position
        return 0

    def read(self, position: int, length: int) -> bytes:
        """Return ``length`` bytes, fewer at the end of the file."""
        index = position - self.start
        if index >= 0 and index + length <= len(self.data):
            return self.data[index : index + length]
        if self._file is None:
            return self.data[position : position + length]
        return os.pread(self._file, length, position)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How the elements of a data set are written."""

    implicit: bool
    big_endian: bool
    short: struct.Struct
    long: struct.Struct

    def nested(self, vr: bytes) -> _Encoding:
        """Return the encoding inside an element: UN of undefined length is implicit (PS3.5 6.2.2)."""
        return _IMPLICIT if vr == b"UN" else self


_EXPLICIT = _Encoding(False, False, struct.Struct("<HH2sH"), struct.Struct("<I"))
_IMPLICIT = _Encoding(True, False, struct.Struct("<HH2sH"), struct.Struct("<I"))
_BIG = _Encoding(False, True, struct.Struct(">HH2sH"), struct.Struct(">I"))
_Element: TypeAlias = tuple[int, bytes, int, int]


class _Walk:
    """The walk over one file: position by position, with a budget of steps."""

    def __init__(self, window: _Window, wanted: frozenset[int], first_items: Mapping[int, int]) -> None:
        self.window, self.wanted, self.first_items = window, wanted, first_items
        self.steps = 0
        self.truncated = False

    def element(self, position: int, encoding: _Encoding) -> _Element | None:
        """Return (tag, vr, value's position, length) of the element here; None where the file ends."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise DicomRefusal("resource_limit", f"more than {MAX_STEPS} elements")
        window = self.window
        index = position - window.start
        if index < 0 or index + 12 > len(window.data):
            index = window.slide(position)
            if index + 8 > len(window.data):
                return None
        group, number, vr, short = encoding.short.unpack_from(window.data, index)
        tag = group << 16 | number
        if encoding.implicit or vr not in _VRS or group == 0xFFFE:
            # Some writers lapse into implicit elements inside an explicit data set; delimiters have no VR.
            length: int = encoding.long.unpack_from(window.data, index + 4)[0]
            return tag, b"", position + 8, length
        if vr in _LONG_VRS:
            if index + 12 > len(window.data):
                return None
            return tag, vr, position + 12, encoding.long.unpack_from(window.data, index + 8)[0]
        return tag, vr, position + 8, short

    def skip(self, position: int, encoding: _Encoding, end: int) -> int:
        """Return the position after a sequence of undefined length, however deep it nests."""
        open_levels = [encoding]
        while open_levels:
            found = self.element(position, open_levels[-1])
            if found is None or position >= end:
                self.truncated = True
                return end
            tag, vr, at, length = found
            if tag in (ITEM_END, SEQUENCE_END):
                open_levels.pop()
                position = at
            elif length == UNDEFINED:
                open_levels.append(open_levels[-1] if tag == ITEM else open_levels[-1].nested(vr))
                position = at
            else:
                position = at + length
        return position

    def items(
        self, position: int, encoding: _Encoding, end: int, limit: int, depth: int
    ) -> tuple[list[Elements], int]:
        """Return the items of a kept sequence and the position after it."""
        kept: list[Elements] = []
        while position + 8 <= end:
            found = self.element(position, encoding)
            if found is None:
                break
            tag, _, at, length = found
            if tag == SEQUENCE_END:
                return kept, at
            if tag != ITEM:
                raise DicomRefusal("corrupt", "a sequence holds something that is not an item")
            stop = end if length == UNDEFINED else min(at + length, end)
            if len(kept) < limit:
                item = Elements(big_endian=encoding.big_endian)
                position = self.dataset(item, at, encoding, stop, depth)
                kept.append(item)
            else:
                position = self.skip(at, encoding, end) if length == UNDEFINED else stop
            if length != UNDEFINED:
                position = at + length
        return kept, position

    def dataset(self, into: Elements, position: int, encoding: _Encoding, end: int, depth: int) -> int:
        """Keep the wanted elements of one item; return the position after it."""
        while position + 8 <= end:
            found = self.element(position, encoding)
            if found is None:
                break
            tag, vr, at, length = found
            if tag == ITEM_END:
                return at
            position = self.keep(into, (tag, vr, at, length), encoding, end, depth)
        return position

    def keep(self, into: Elements, found: _Element, encoding: _Encoding, end: int, depth: int) -> int:
        """Keep one element if it is wanted; return the position after it."""
        tag, vr, at, length = found
        if length != UNDEFINED and at + length > end:
            self.truncated = True
            return end
        if tag not in self.wanted or depth >= MAX_DEPTH:
            return self.skip(at, encoding.nested(vr), end) if length == UNDEFINED else at + length
        if vr == b"SQ" or length == UNDEFINED or tag in tags.SEQUENCES:
            stop = end if length == UNDEFINED else at + length
            inner = encoding.nested(vr) if length == UNDEFINED else encoding
            items, after = self.items(at, inner, stop, self.first_items.get(tag, MAX_STEPS), depth + 1)
            into.sequences[tag] = items
            return after if length == UNDEFINED else stop
        if length > MAX_VALUE_BYTES:
            raise DicomRefusal(
                "resource_limit", f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) is {length} bytes long"
            )
        into.values[tag] = self.window.read(at, length)
        return at + length


def parse(path: Path, wanted: frozenset[int], *, first_items: Mapping[int, int] | None = None) -> Parsed:
    """Walk one file and keep the wanted elements up to its pixels.

    Args:
        path: the file.
        wanted: tags to keep, at every level; a sequence is entered only if it is wanted.
        first_items: per sequence, how many of its items to keep (all others are stepped over).

    Raises:
        DicomRefusal: ``not_dicom``, ``corrupt`` or ``resource_limit``.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DicomRefusal("corrupt", f"a file cannot be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise DicomRefusal("not_dicom", "not a regular file")
        return _parse(_Window(file, b"", os.fstat(file).st_size), wanted, first_items or {})
    except OSError as error:
        raise DicomRefusal("corrupt", f"a file cannot be read: {error.strerror}") from None
    finally:
        os.close(file)


def _parse(window: _Window, wanted: frozenset[int], first_items: Mapping[int, int]) -> Parsed:
    window.slide(0)
    position = _first_element(window)
    walk = _Walk(window, wanted, first_items)
    elements = Elements()
    position = _meta(walk, elements, position)
    declared = text(elements.values.get(tags.TRANSFER_SYNTAX, b""))
    deflated_at = None
    if declared == DEFLATED_LITTLE:
        deflated_at = position
        data = inflate(window.read(position, min(window.size - position, MAX_INFLATED_BYTES)))
        walk.window = window = _Window(None, data, len(data))
        position = 0
    encoding = _encoding(window, position, declared)
    elements.big_endian = encoding.big_endian
    pixels, overlays = _body(walk, elements, position, encoding)
    if not elements.values:
        raise DicomRefusal("corrupt", "no readable element after the file's head")
    syntax = declared or {_IMPLICIT: IMPLICIT_LITTLE, _BIG: EXPLICIT_BIG}.get(encoding, EXPLICIT_LITTLE)
    return Parsed(elements, syntax, encoding.big_endian, pixels, overlays, walk.truncated, deflated_at)


def _first_element(window: _Window) -> int:
    """Return where the elements begin: after the preamble, or at 0 in a file without one."""
    head = window.data[:132]
    if head[128:132] == b"DICM":
        if window.size < 132 + 8:
            raise DicomRefusal("corrupt", "the file ends after its preamble")
        return 132
    if len(head) >= 8:
        group, number, vr, short = _EXPLICIT.short.unpack_from(head, 0)
        length = _EXPLICIT.long.unpack_from(head, 4)[0]
        swapped = struct.unpack_from(">H", head, 0)[0]
        plausible = (vr in _SHORT_VRS and short <= window.size) or length <= 256
        if group in (0x0002, 0x0008) and number <= 0x0100 and plausible:
            return 0
        if swapped == 0x0008 and vr in _SHORT_VRS:
            return 0
    raise DicomRefusal("not_dicom", "the file has neither the DICOM prefix nor a data set at its start")


def _meta(walk: _Walk, into: Elements, position: int) -> int:
    """Keep the file meta information, which is always explicit little-endian (PS3.10 7.1)."""
    while True:
        found = walk.element(position, _EXPLICIT)
        if found is None or found[0] >> 16 != 0x0002:
            return position
        position = walk.keep(into, found, _EXPLICIT, walk.window.size, 0)


def _encoding(window: _Window, position: int, declared: str) -> _Encoding:
    """Return how the data set is written: as declared, unless its first element shows otherwise."""
    first = window.read(position, 8)
    explicit = first[4:6] in _VRS
    swapped = len(first) == 8 and first[0] == 0 and first[1] != 0
    if declared == EXPLICIT_BIG or (not declared and explicit and swapped):
        return _BIG
    if declared in (IMPLICIT_LITTLE, GE_IMPLICIT_BIG_PIXELS, ""):
        return _EXPLICIT if explicit else _IMPLICIT
    return _EXPLICIT


def inflate(packed: bytes) -> bytes:
    """Return a deflated data set (PS3.5 A.5), unfolded.

    Raises:
        DicomRefusal: ``corrupt`` or ``resource_limit``.
    """
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpack.decompress(packed, MAX_INFLATED_BYTES)
    except zlib.error:
        raise DicomRefusal("corrupt", "the deflated data set cannot be inflated") from None
    if unpack.unconsumed_tail:
        raise DicomRefusal(
            "resource_limit", f"the deflated data set unfolds to more than {MAX_INFLATED_BYTES} bytes"
        )
    return data


def _body(walk: _Walk, into: Elements, position: int, encoding: _Encoding) -> tuple[PixelPlace | None, bool]:
    """Keep the wanted elements up to the pixels; return their place, and whether an overlay was seen."""
    overlays, wanted, size = False, walk.wanted, walk.window.size
    while position < size:
        found = walk.element(position, encoding)
        if found is None:
            walk.truncated = True
            break
        tag, vr, at, length = found
        if tag in _PIXEL_TAGS:
            encapsulated = length == UNDEFINED
            rest = max(size - at, 0)
            length = rest if encapsulated else length
            return PixelPlace(tag, at, length, min(length, rest), encapsulated, vr), overlays
        if length != UNDEFINED and tag not in wanted and at + length <= size:
            overlays = overlays or 0x60000000 <= tag <= 0x60FFFFFF
            position = at + length
        else:
            position = walk.keep(into, found, encoding, size, 0)
    return None, overlays
