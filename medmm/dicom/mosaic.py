"""Siemens mosaics: one MR image whose tiles are the slices of a volume.

The number of slices and their normal stand in private elements (the CSA image header); the position given
is the corner of the whole sheet around the first slice's centre. A mosaic that does not say both is
refused: its tile sheet is no anatomy.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np

from medmm.dicom import tags
from medmm.dicom.geometry import directions
from medmm.dicom.header import MAX_SPACING_MM, Header
from medmm.dicom.planes import Plane, planes_of
from medmm.errors import DicomRefusal

MAX_TILES = 1024
_MAX_CSA_ELEMENTS = 512
_ALIGNED = 0.99
"""Least cosine between the CSA slice normal and the one of the orientation."""


def is_mosaic(header: Header) -> bool:
    """Return whether the image is a sheet of tiles: ImageType says so, or United Imaging's count of them."""
    if "MOSAIC" in header.elements.texts(tags.IMAGE_TYPE):
        return True
    creator = header.elements.text(tags.GRID_CREATOR)
    return creator == "Image Private Header" and tags.GRID_IMAGES in header.elements.values


def tiles_of(header: Header) -> list[Plane]:
    """Return the slices of a mosaic, each with its place in the sheet and in the patient.

    Raises:
        DicomRefusal: ``missing_geometry`` or ``inconsistent_geometry``.
    """
    sheet = planes_of(header)[0]
    owned = header.elements.text(tags.SIEMENS_CSA_CREATOR) == "SIEMENS CSA HEADER"
    csa = csa_numbers(header.elements.values.get(tags.SIEMENS_IMAGE_HEADER, b"")) if owned else {}
    count = int(csa.get("NumberOfImagesInMosaic", (header.elements.integer(tags.MOSAIC_IMAGES) or 0,))[0])
    normal = np.array(csa.get("SliceNormalVector", ()))
    step = header.elements.number(tags.SPACING_BETWEEN_SLICES) or 0.0
    if not 1 < count <= MAX_TILES or normal.shape != (3,) or not 0 < step <= MAX_SPACING_MM:
        raise DicomRefusal(
            "missing_geometry", "a mosaic without its number of slices, their normal or spacing"
        )
    if sheet.position is None or sheet.orientation is None or sheet.spacing is None:
        raise DicomRefusal("missing_geometry", "a mosaic without position, orientation or PixelSpacing")
    row, column, cross = directions(sheet.orientation)
    if abs(normal @ cross) < _ALIGNED:
        raise DicomRefusal("inconsistent_geometry", "a mosaic's slice normal contradicts its orientation")
    across = math.ceil(math.sqrt(count))
    rows, columns = sheet.layout.rows // across, sheet.layout.columns // across
    if rows * across != sheet.layout.rows or columns * across != sheet.layout.columns:
        raise DicomRefusal("inconsistent_geometry", "a mosaic's tiles do not fill its sheet")
    corner = (
        np.array(sheet.position)
        + row * sheet.spacing[1] * (sheet.layout.columns - columns) / 2
        + column * sheet.spacing[0] * (sheet.layout.rows - rows) / 2
    )
    direction = cross * math.copysign(step, float(normal @ cross))
    return [
        replace(
            sheet,
            tile=(index // across * rows, index % across * columns, rows, columns),
            position=tuple(float(value) for value in corner + index * direction),
        )
        for index in range(count)
    ]


def csa_numbers(data: bytes) -> dict[str, tuple[float, ...]]:
    """Return the two numeric elements that a mosaic needs from a CSA header ("SV10"); {} when unreadable."""
    if data[:4] != b"SV10" or len(data) < 16:
        return {}
    found: dict[str, tuple[float, ...]] = {}
    position = 16
    for _ in range(min(struct.unpack_from("<I", data, 8)[0], _MAX_CSA_ELEMENTS)):
        if position + 84 > len(data):
            break
        name = data[position : position + 64].split(b"\0")[0].decode("latin-1")
        items = struct.unpack_from("<i", data, position + 76)[0]
        position += 84
        values = []
        for _ in range(min(max(items, 0), _MAX_CSA_ELEMENTS)):
            if position + 16 > len(data):
                return found
            length = struct.unpack_from("<i", data, position)[0]
            if length < 0:
                return found
            values.append(data[position + 16 : position + 16 + length].split(b"\0")[0].strip())
            position += 16 + -(-length // 4) * 4
        if name in ("NumberOfImagesInMosaic", "SliceNormalVector"):
            numbers = _finite(values)
            if numbers is None:
                return {}
            if numbers:
                found[name] = numbers
    return found


def _finite(values: list[bytes]) -> tuple[float, ...] | None:
    """Return texts as numbers, None when one is not a finite number."""
    try:
        numbers = tuple(float(value) for value in values if value)
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
