"""From stored values to the modality's: rescale, look-up table, palette, padding (PS3.3 C.11.1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from medmm.arrays import Array, Bools
from medmm.dicom import tags
from medmm.dicom.elements import Elements
from medmm.dicom.header import Header, Layout
from medmm.dicom.planes import Plane
from medmm.errors import DicomRefusal

_EXACT_BITS = 24
"""Integers of more bits are not exact in float32."""


def output_dtype(planes: Sequence[Plane]) -> np.dtype[np.generic]:
    """Return the dtype that holds every plane: int32 where the rescale is exact in it, else float32.

    Colour stays as it is stored.
    """
    layout = planes[0].layout
    if layout.photometric == "PALETTE COLOR":
        return np.dtype(np.uint16 if layout.bits_allocated > 8 else np.uint8)
    if layout.samples > 1:
        return np.dtype(
            f"{'i' if layout.signed else 'u'}{max(plane.layout.bits_allocated for plane in planes) // 8}"
        )
    for plane in planes:
        largest = abs(plane.slope) * 2.0**plane.layout.bits_stored + abs(plane.intercept)
        whole = plane.slope == int(plane.slope) and plane.intercept == int(plane.intercept)
        if not whole or largest >= 2**31:
            return np.dtype(np.float32)
    return np.dtype(np.int32)


def apply_rescale(stored: Array, plane: Plane, out: Any) -> None:
    """Write the modality's values of one plane's stored values into ``out``.

    Args:
        stored: integers [row, column] or [row, column, 3].
        plane: whose slope, intercept, look-up table or palette apply.
        out: of :func:`output_dtype`, of the shape of the result.
    """
    table = plane.header.elements.first(tags.MODALITY_LUT)
    if plane.layout.photometric == "PALETTE COLOR":
        out[...] = _palette(stored, plane.header, plane.layout)
    elif plane.layout.samples > 1:
        out[...] = stored
    elif table is not None and tags.LUT_DATA in table.values:
        out[...] = _looked_up(stored, table, plane.layout)
    elif plane.slope == 1 and plane.intercept == 0:
        out[...] = stored
    elif out.dtype.kind == "i":
        np.multiply(stored, int(plane.slope), out=out, casting="unsafe", dtype=np.int32)
        out += int(plane.intercept)
    else:
        wide = np.float64 if plane.layout.bits_stored > _EXACT_BITS else np.float32
        values: Any = stored.astype(wide)
        values *= plane.slope
        values += plane.intercept
        out[...] = values


def padding_mask(stored: Any, plane: Plane) -> Bools | None:
    """Return where stored values are padding (PS3.3 C.7.5.1.1.2), None where the object declares none."""
    elements = plane.header.elements
    value = _pixel_value(elements, tags.PADDING_VALUE, plane.layout)
    if value is None or plane.layout.samples > 1 or plane.layout.photometric == "PALETTE COLOR":
        return None
    limit = _pixel_value(elements, tags.PADDING_LIMIT, plane.layout)
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _pixel_value(elements: Elements, tag: int, layout: Layout) -> int | None:
    """Return an element of VR "US or SS": PixelRepresentation says which, whatever the file does."""
    value = elements.values.get(tag, b"")
    if len(value) < 2:
        return None
    code = (">" if elements.big_endian else "<") + ("h" if layout.signed else "H")
    number: int = struct.unpack_from(code, value)[0]
    if layout.bits_stored < 16:
        # Padding is compared with values whose unused bits are gone, so it loses its own.
        number &= (1 << layout.bits_stored) - 1
        if layout.signed and number >> (layout.bits_stored - 1):
            number -= 1 << layout.bits_stored
    return number


def _looked_up(stored: Array, table: Elements, layout: Layout) -> Array:
    """Return stored values through the Modality LUT; beyond its ends it keeps its first and last entry."""
    entries, first, bits = _descriptor(table, tags.LUT_DESCRIPTOR, layout)
    data = table.values[tags.LUT_DATA]
    values = _entries(data, entries, bits, table.big_endian)
    looked_up: Array = values[np.clip(stored.astype(np.int64) - first, 0, entries - 1)]
    return looked_up


def _descriptor(elements: Elements, tag: int, layout: Layout) -> tuple[int, int, int]:
    numbers = [int(number) for number in elements.numbers(tag)]
    if len(numbers) != 3 or numbers[2] not in range(8, 17):
        raise DicomRefusal("corrupt", "a look-up table without a valid descriptor")
    first = numbers[1] - 65536 if layout.signed and numbers[1] > 32767 else numbers[1]
    return numbers[0] or 65536, first, numbers[2]


def _entries(data: bytes, count: int, bits: int, big_endian: bool) -> Any:
    """Return the entries of a table; 8-bit ones may be packed in bytes or stand in words."""
    order = ">" if big_endian else "<"
    if len(data) >= 2 * count:
        return np.frombuffer(data, order + "u2", count)
    if bits == 8 and len(data) >= count:
        return np.frombuffer(data, np.uint8, count)
    raise DicomRefusal("corrupt", "a look-up table is shorter than its descriptor says")


def _palette(stored: Array, header: Header, layout: Layout) -> Array:
    """Return RGB [row, column, 3] of palette indices (PS3.3 C.7.6.3.1.5).

    The colours of an 8-bit image are 8-bit ones; tables that write them in 16 bits put them in the high byte.
    """
    channels = []
    for tag, data_tag in zip(tags.PALETTE_DESCRIPTORS, tags.PALETTE_DATA, strict=True):
        data = header.elements.values.get(data_tag)
        if data is None:
            raise DicomRefusal(
                "unsupported_photometric", "a palette without plain tables (segmented ones are not read)"
            )
        entries, first, bits = _descriptor(header.elements, tag, layout)
        table = _entries(data, entries, bits, header.elements.big_endian)
        if bits > 8 and layout.bits_allocated == 8:
            table = table >> 8
        channels.append(table[np.clip(stored.astype(np.int64) - first, 0, entries - 1)])
    return np.stack(channels, axis=-1)
