"""The elements kept of a file, and what their values say."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

from medmm.dicom import tags
from medmm.errors import DicomRefusal


@dataclass(slots=True)
class Elements:
    """The elements kept of a data set or of one sequence item.

    Attributes:
        values: tag → the value's bytes, padding included.
        sequences: tag → the items of a kept sequence.
        big_endian: byte order of binary values.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    sequences: dict[int, list[Elements]] = field(default_factory=dict)
    big_endian: bool = False

    def text(self, tag: int) -> str:
        """Return a value of the default repertoire, "" when absent."""
        return text(self.values.get(tag, b""))

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return a multi-valued text, () when absent or empty."""
        value = self.text(tag)
        return tuple(part.strip() for part in value.split("\\")) if value else ()

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Return numbers, text (DS, IS) or binary; what cannot be read as one is not-a-number."""
        value = self.values.get(tag, b"")
        code = tags.BINARY.get(tag)
        if code is None:
            return tuple(_decimal(part) for part in self.texts(tag))
        count = len(value) // struct.calcsize(code)
        return struct.unpack_from((">" if self.big_endian else "<") + code * count, value)

    def number(self, tag: int) -> float | None:
        """Return the first number, None when the element is absent or empty."""
        values = self.numbers(tag)
        return values[0] if values else None

    def integer(self, tag: int) -> int | None:
        """Return the first number as an integer, None when absent or empty.

        Raises:
            DicomRefusal: ``corrupt`` when it is no integer.
        """
        value = self.number(tag)
        if value is None:
            return None
        if not math.isfinite(value) or value != int(value):
            raise DicomRefusal("corrupt", f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) is not an integer")
        return int(value)

    def first(self, tag: int) -> Elements | None:
        """Return the first item of a sequence, None when it is absent or empty."""
        items = self.sequences.get(tag)
        return items[0] if items else None


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixels lie in the file.

    Attributes:
        tag: PixelData, FloatPixelData or DoubleFloatPixelData.
        offset: of the value's first byte (of the first item when encapsulated).
        length: bytes promised by the header, or the rest of the file when encapsulated.
        available: bytes of them that the file really holds.
        encapsulated: whether the length is undefined and the value a sequence of fragments.
        vr: the value representation, b"" where it is implicit.
    """

    tag: int
    offset: int
    length: int
    available: int
    encapsulated: bool
    vr: bytes


@dataclass(frozen=True, slots=True)
class Parsed:
    """One file, walked.

    Attributes:
        elements: what was asked for.
        transfer_syntax: as declared; what the encoding shows where nothing is declared.
        big_endian: byte order of the elements' binary values.
        pixels: None when there is no pixel element.
        overlays: whether a 60xx overlay was seen.
        truncated: whether the file ends inside an element before its pixels.
        deflated_at: in a deflated file, where its packed data set begins; the pixels' offset then counts in
            the unfolded one, which is not kept.
    """

    elements: Elements
    transfer_syntax: str
    big_endian: bool
    pixels: PixelPlace | None
    overlays: bool
    truncated: bool
    deflated_at: int | None = None


def _decimal(value: str) -> float:
    """Return a DS or IS value; Python's own liberties ("1_0", "infinity") are not numbers here."""
    if not value or value.strip("0123456789+-.eE "):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def text(value: bytes) -> str:
    """Return a value of the default repertoire as text, without its padding."""
    return value.decode("latin-1").strip(" \0\t\r\n")
