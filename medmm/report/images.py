"""Images for a page: slices as they were acquired, the attribution on them, and what a network sees."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from medmm.arrays import Floats
from medmm.report.wording import plain

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
Letters = tuple[str, str, str, str]
Kind = Literal["intensity", "label_map"]

LONG_SIDE = 448
"""Pixels of the longer side of a drawn slice: sharp on the page, about 100 kB as PNG."""

RAISES = (230, 97, 0)
LOWERS = (20, 120, 210)
LABEL_COLOURS = ((18, 22, 26), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (230, 159, 0))
"""Okabe and Ito's colours, told apart with any colour vision; the first is the background."""

FAINTEST = 0.08
"""Attributions below this share of the largest are left transparent."""

SCALES_MM = (1, 2, 5, 10, 20, 50, 100, 200)
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One plane of an image, and the attribution on it.

    Attributes:
        pixels: values, ``Float[a b]``; see ``axes``.
        number: 1-based slice number n, counted from the inferior, posterior or left end; 1 in 2-D.
        spacing_mm: along the two axes of ``pixels``, or None when not recorded (then no scale is drawn).
        axes: where each array axis increases to: ("R", "A") for an axial plane of a RAS+ volume, ("R", "S")
            for a coronal, ("A", "S") for a sagittal one; None for [row, column] as displayed.
        edges: letters (left, right, top, bottom) of an image "as displayed"; empty where not recorded.
        map: attribution in log-odds, same shape, or None where it is withheld or was not computed.
    """

    pixels: Floats
    number: int
    spacing_mm: tuple[float, float] | None
    axes: tuple[str, str] | None
    edges: Letters = ("", "", "", "")
    map: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageEvidence:
    """What one image block looked like, and what the model took from where.

    Attributes:
        label: the block's label.
        kind: "intensity" or "label_map".
        plane: "axial", "coronal", "sagittal" or "projection".
        slices: the slices to show, in order.
        count: N, slices of the series.
        window: (low, high) of the display, in the units of ``pixels``; ignored for a label map.
        window_text: the window in words ("soft tissue, level 40 HU, width 400 HU"), or empty.
        labels: (value, name) of the structures of a label map.
        gate: "passed", "withheld" or "not_run".
        gate_sentence: what the sanity gate found.
        gap: completeness gap of the map as a share of the logit change, or None without a map.
        flagged: the gap is above what was allowed.
        method: how the map was made ("integrated gradients, 32 steps, from the blurred image").
        note: anything a reader must know before looking.
    """

    label: str
    kind: Kind
    plane: Literal["axial", "coronal", "sagittal", "projection"]
    slices: tuple[Slice, ...]
    count: int
    window: tuple[float, float] = (0.0, 1.0)
    window_text: str = ""
    labels: tuple[tuple[int, str], ...] = ()
    gate: Literal["passed", "withheld", "not_run"] = "not_run"
    gate_sentence: str = ""
    gap: float | None = None
    flagged: bool = False
    method: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """What the network sees of one patient's image, for the contact sheet.

    Attributes:
        array: ``Float[channel x y z]`` or ``Float[channel x y]``, as transformed.
        kind: "intensity" (drawn from its smallest to its largest value) or "label_map" (a channel per label).
        caption: a word under it; never a patient's id.
        axes: of the first two spatial axes, as in :class:`Slice`.
    """

    array: Floats
    kind: Kind
    caption: str
    axes: tuple[str, str] | None = ("R", "A")


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice as the page places it.

    Attributes:
        original: PNG of the slice alone.
        overlay: PNG with the attribution on it, or empty.
        width: pixels of either.
        height: pixels of either.
        letters: (left, right, top, bottom) orientation letters, empty where not recorded.
        number: 1-based slice number.
        scale_mm: length of the scale bar, 0 where the spacing is not recorded.
        scale_share: its length as a share of the picture's width.
    """

    original: bytes
    overlay: bytes
    width: int
    height: int
    letters: Letters
    number: int
    scale_mm: int
    scale_share: float


def frames(evidence: ImageEvidence) -> tuple[Frame, ...]:
    """Return the slices of an image in radiological convention: patient's right on the viewer's left.

    The attribution's colour is relative to the largest value over all slices of this image.
    """
    maps = [part.map for part in evidence.slices if part.map is not None]
    largest = max((float(np.abs(values).max()) for values in maps), default=0.0)
    return tuple(_frame(part, evidence, largest) for part in evidence.slices)


def legend(labels: Sequence[tuple[int, str]]) -> tuple[tuple[str, str], ...]:
    """Return (CSS colour, name) of the structures of a label map, as :func:`frames` paints them."""
    return tuple(
        ("rgb({},{},{})".format(*_label_colour(place)), name) for place, (_, name) in enumerate(labels, 1)
    )


def contact_sheet(tiles: Sequence[Tile]) -> bytes:
    """Return a PNG montage of what the network sees, one row per patient, with orientation letters.

    A volume shows five slices from one end of its last axis to the other, an image itself.

    Args:
        tiles: one per patient.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = [_planes(tile) for tile in tiles]
    columns = max((len(row) for row in rows), default=1)
    cell, caption, gap = 176, 22, 6
    size = (columns * (cell + gap) + gap, len(rows) * (cell + caption + gap) + gap)
    sheet = Image.new("RGB", size, LABEL_COLOURS[0])
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for down, (tile, planes) in enumerate(zip(tiles, rows, strict=True)):
        top = gap + down * (cell + caption + gap)
        pen.text((gap + 2, top + cell + 2), plain(tile.caption), fill=(200, 208, 216), font=font)
        for across, plane in enumerate(planes):
            left = gap + across * (cell + gap)
            sheet.paste(_fitted(plane, cell), (left, top))
            for letter, place, anchor in _letter_places(tile.axes, left, top, cell):
                pen.text(place, letter, fill=(255, 214, 102), font=font, anchor=anchor)
    return _png(sheet)


def image_size(png: bytes) -> tuple[int, int]:
    """Return (width, height) of a PNG, from its header (ISO/IEC 15948, 11.2.2)."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def letters(axes: tuple[str, str] | None, edges: Letters) -> Letters:
    """Return what stands (left, right, top, bottom) of a slice as it is drawn."""
    if axes is None:
        return edges
    across, up = axes
    return (across, _OPPOSITE.get(across, ""), up, _OPPOSITE.get(up, ""))


def as_displayed(plane: npt.NDArray[np.generic], axes: tuple[str, str] | None) -> npt.NDArray[np.generic]:
    """Return [row, column] of a plane: the first axis runs to the viewer's left, the second upwards.

    For RAS+ axes this is the radiological convention (axial from below, coronal from the front); a plane
    without axes is [row, column] already.
    """
    return plane if axes is None else plane.T[::-1, ::-1]


def _frame(part: Slice, evidence: ImageEvidence, largest: float) -> Frame:
    values = np.asarray(as_displayed(part.pixels, part.axes), dtype=np.float32)
    size, millimetres = _size(part, values.shape)
    labelled = evidence.kind == "label_map"
    painted = _painted(values, evidence) if labelled else _grey(values, evidence.window)
    original = _resized(painted, size, smooth=not labelled)
    overlay = b""
    if part.map is not None and largest > 0:
        heat = np.asarray(as_displayed(part.map, part.axes), dtype=np.float32) / largest
        below = _resized(_muted(values, evidence), size, smooth=False) if labelled else original
        overlay = _png(_heated(below, heat, size))
    length = next((mm for mm in reversed(SCALES_MM) if mm <= 0.4 * millimetres), 0) if millimetres else 0
    share = length / millimetres if length else 0.0
    width, height = size
    drawn = letters(part.axes, part.edges)
    return Frame(_png(original), overlay, width, height, drawn, part.number, length, share)


def _size(part: Slice, shape: tuple[int, ...]) -> tuple[tuple[int, int], float]:
    """Return (width, height) in pixels with square millimetres, and the width in mm (0: not recorded)."""
    rows, columns = shape
    height, width = float(rows), float(columns)
    if part.spacing_mm is not None:
        first, second = part.spacing_mm
        down, across = (first, second) if part.axes is None else (second, first)
        height, width = rows * down, columns * across
    factor = LONG_SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return size, width if part.spacing_mm is not None else 0.0


def _grey(values: npt.NDArray[np.float32], window: tuple[float, float]) -> Pixels:
    low, high = window
    scaled = (values - low) / max(high - low, 1e-12)
    grey = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _painted(values: npt.NDArray[np.float32], evidence: ImageEvidence) -> Pixels:
    painted = np.full((*values.shape, 3), LABEL_COLOURS[0], dtype=np.uint8)
    for place, (value, _) in enumerate(evidence.labels, 1):
        painted[np.rint(values) == value] = _label_colour(place)
    return painted


def _muted(values: npt.NDArray[np.float32], evidence: ImageEvidence) -> Pixels:
    muted = np.full((*values.shape, 3), LABEL_COLOURS[0], dtype=np.uint8)
    for place, (value, _) in enumerate(evidence.labels, 1):
        muted[np.rint(values) == value] = 70 + 100 * place // len(evidence.labels)
    return muted


def _label_colour(place: int) -> tuple[int, int, int]:
    return LABEL_COLOURS[1 + (place - 1) % (len(LABEL_COLOURS) - 1)]


def _resized(pixels: Pixels, size: tuple[int, int], *, smooth: bool) -> Image:
    from PIL import Image

    way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize(size, way)


def _heated(below: Image, heat: npt.NDArray[np.float32], size: tuple[int, int]) -> Image:
    """Return the picture under the attribution: colour is its sign, opacity its share of the largest."""
    from PIL import Image

    strength = np.clip(np.abs(heat), 0, 1)
    alpha = np.where(strength < FAINTEST, 0, 0.15 + 0.7 * strength)
    colour = np.where((heat > 0)[..., None], np.array(RAISES), np.array(LOWERS)).astype(np.uint8)
    mask = Image.fromarray(np.rint(255 * alpha).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    paint = Image.fromarray(colour).resize(size, Image.Resampling.NEAREST)
    return Image.composite(paint, below, mask)


def _planes(tile: Tile) -> list[Pixels]:
    array = np.asarray(tile.array, dtype=np.float32)
    drawn = _channels_painted(array) if tile.kind == "label_map" else _channel_stretched(array)
    if array.ndim == 3:
        return [_shown(drawn, tile.axes)]
    depth = array.shape[-1]
    return [_shown(drawn[:, :, round(at)], tile.axes) for at in np.linspace(0.1, 0.9, 5) * (depth - 1)]


def _shown(plane: Pixels, axes: tuple[str, str] | None) -> Pixels:
    return plane if axes is None else np.swapaxes(plane, 0, 1)[::-1, ::-1]


def _channels_painted(array: npt.NDArray[np.float32]) -> Pixels:
    palette = np.array([LABEL_COLOURS[0], *(_label_colour(place) for place in range(1, len(array) + 1))])
    which = np.where(array.max(axis=0) >= 0.5, array.argmax(axis=0) + 1, 0)
    return palette[which].astype(np.uint8)


def _channel_stretched(array: npt.NDArray[np.float32]) -> Pixels:
    first = array[0]
    return _grey(first, (float(first.min()), float(first.max())))


def _fitted(plane: Pixels, cell: int) -> Image:
    factor = cell / max(plane.shape[:2])
    rows, columns = (max(1, round(side * factor)) for side in plane.shape[:2])
    return _resized(np.ascontiguousarray(plane), (columns, rows), smooth=False)


def _letter_places(
    axes: tuple[str, str] | None, left: int, top: int, cell: int
) -> list[tuple[str, tuple[int, int], str]]:
    west, _, north, _ = letters(axes, ("", "", "", ""))
    middle = cell // 2
    return [(west, (left + 4, top + middle), "lm"), (north, (left + middle, top + 3), "mt")]


def _png(image: Image) -> bytes:
    held = io.BytesIO()
    image.save(held, format="PNG", optimize=False)
    return held.getvalue()
