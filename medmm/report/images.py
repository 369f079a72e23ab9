"""Images for a page: slices as they were acquired, the attribution on them, and what a network sees."""

from __future__ import annotations

import io
import math
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

RAISES = (230, 97, 0)
LOWERS = (20, 120, 210)
LABEL_COLOURS = ((18, 22, 26), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (230, 159, 0))
"""Okabe and Ito's colours, told apart with any colour vision; the first is the background."""

SHEET = 1600
"""Pixels that a full contact sheet is about wide and high."""

CELLS = (96, 224)
"""Smallest and largest side of one picture on a contact sheet, in pixels."""

SHEET_GROUND = (44, 51, 58)
"""Between the pictures of a contact sheet, so that a black picture is still seen to be one."""

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
    """One slice as the page places it: its own pixels, which the page stretches to square millimetres.

    Attributes:
        original: PNG of the slice, one byte a pixel.
        overlay: transparent PNG of the attribution, to lie on the original; or empty.
        width: of the picture, as a share of its longer side, times 1000.
        height: likewise.
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
    """Return a PNG montage of what the network sees, about as wide as high, with orientation letters.

    A volume shows five slices side by side, from one end of its last axis to the other; an image itself.

    Args:
        tiles: one per patient.
    """
    from PIL import Image, ImageDraw, ImageFont

    strips = [_planes(tile) for tile in tiles]
    longest = max((len(strip) for strip in strips), default=1)
    sheet = _Sheet.of(len(strips), longest)
    picture = Image.new("RGB", sheet.size, SHEET_GROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for place, (tile, planes) in enumerate(zip(tiles, strips, strict=True)):
        left, top = sheet.corner(place)
        pen.text((left + 2, top + sheet.cell + 2), plain(tile.caption), fill=(200, 208, 216), font=font)
        for plane in planes:
            picture.paste(_fitted(plane, sheet.cell), (left, top))
            for letter, at, anchor in _letter_places(tile.axes, left, top, sheet.cell):
                pen.text(at, letter, fill=(255, 214, 102), font=font, anchor=anchor)
            left += sheet.cell + sheet.gap
    return _png(picture)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The grid of a contact sheet: ``columns`` strips side by side, each of ``longest`` pictures."""

    strips: int
    longest: int
    columns: int
    cell: int
    gap: int = 6
    caption: int = 20

    @classmethod
    def of(cls, strips: int, longest: int) -> _Sheet:
        """Return the grid that is nearest to a square."""
        count = max(strips, 1)
        smallest, largest = CELLS
        cell = min(largest, max(smallest, int(SHEET / math.sqrt(count * longest))))
        grids = (cls(count, longest, columns, cell) for columns in range(1, count + 1))
        return min(grids, key=lambda grid: abs(math.log(grid.size[0] / grid.size[1])))

    @property
    def size(self) -> tuple[int, int]:
        rows = -(-self.strips // self.columns)
        return self.columns * self._wide() + self.gap, rows * self._high() + self.gap

    def corner(self, place: int) -> tuple[int, int]:
        """Return the left and top edge of a strip, counted row by row."""
        down, across = divmod(place, self.columns)
        return self.gap + across * self._wide(), self.gap + down * self._high()

    def _wide(self) -> int:
        return self.longest * (self.cell + self.gap) + self.gap

    def _high(self) -> int:
        return self.cell + self.caption + self.gap


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
    (width, height), millimetres = _size(part, values.shape)
    original = (
        _painted(values, evidence) if evidence.kind == "label_map" else _windowed(values, evidence.window)
    )
    overlay = b""
    if part.map is not None and largest > 0:
        heat = np.asarray(as_displayed(part.map, part.axes), dtype=np.float32) / largest
        overlay = _heated(heat)
    length = next((mm for mm in reversed(SCALES_MM) if mm <= 0.4 * millimetres), 0) if millimetres else 0
    share = length / millimetres if length else 0.0
    drawn = letters(part.axes, part.edges)
    return Frame(_png(original), overlay, width, height, drawn, part.number, length, share)


def _size(part: Slice, shape: tuple[int, ...]) -> tuple[tuple[int, int], float]:
    """Return (width, height) with square millimetres, and the width in mm (0: not recorded)."""
    rows, columns = shape
    height, width = float(rows), float(columns)
    if part.spacing_mm is not None:
        first, second = part.spacing_mm
        down, across = (first, second) if part.axes is None else (second, first)
        height, width = rows * down, columns * across
    factor = 1000 / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return size, width if part.spacing_mm is not None else 0.0


def _windowed(values: npt.NDArray[np.float32], window: tuple[float, float]) -> Image:
    from PIL import Image

    return Image.fromarray(_grey(values, window))


def _grey(values: npt.NDArray[np.float32], window: tuple[float, float]) -> Pixels:
    low, high = window
    scaled = (values - low) / max(high - low, 1e-12)
    grey: Pixels = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
    return grey


def _painted(values: npt.NDArray[np.float32], evidence: ImageEvidence) -> Image:
    from PIL import Image

    places = np.zeros(values.shape, dtype=np.uint8)
    for place, (value, _) in enumerate(evidence.labels, 1):
        places[np.rint(values) == value] = place
    painted = Image.fromarray(places).convert("P")
    painted.putpalette(bytes(_palette(len(evidence.labels))))
    return painted


def _palette(labels: int) -> Pixels:
    """Return the colour of each place: the background, then the labels."""
    colours = [LABEL_COLOURS[0], *(_label_colour(place) for place in range(1, labels + 1))]
    return np.array(colours, dtype=np.uint8)


def _label_colour(place: int) -> tuple[int, int, int]:
    return LABEL_COLOURS[1 + (place - 1) % (len(LABEL_COLOURS) - 1)]


def _heated(heat: npt.NDArray[np.float32]) -> bytes:
    """Return the attribution as a transparent PNG: colour is its sign, opacity its share of the largest.

    Entry 0 of the palette is clear, 1 to 127 raise, 128 to 254 lower, each more opaque than the one before.
    """
    from PIL import Image

    strength = np.clip(np.nan_to_num(np.abs(heat)), 0, 1)
    steps = np.rint(1 + 126 * strength).astype(np.uint8)
    places = np.where(strength < FAINTEST, 0, np.where(heat > 0, steps, steps + 127)).astype(np.uint8)
    painted = Image.fromarray(places).convert("P")
    painted.putpalette([0, 0, 0, *(RAISES * 127), *(LOWERS * 127)])
    ramp = [round(255 * (0.15 + 0.7 * step / 126)) for step in range(127)]
    return _png(painted, transparency=bytes([0, *ramp, *ramp]))


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
    which = np.where(array.max(axis=0) >= 0.5, array.argmax(axis=0) + 1, 0)
    return _palette(len(array))[which]


def _channel_stretched(array: npt.NDArray[np.float32]) -> Pixels:
    first = array[0]
    grey = _grey(first, (float(first.min()), float(first.max())))
    return np.repeat(grey[..., None], 3, axis=-1)


def _fitted(plane: Pixels, cell: int) -> Image:
    from PIL import Image

    factor = cell / max(plane.shape[:2])
    rows, columns = (max(1, round(side * factor)) for side in plane.shape[:2])
    return Image.fromarray(np.ascontiguousarray(plane)).resize((columns, rows), Image.Resampling.NEAREST)


def _letter_places(
    axes: tuple[str, str] | None, left: int, top: int, cell: int
) -> list[tuple[str, tuple[int, int], str]]:
    west, _, north, _ = letters(axes, ("", "", "", ""))
    middle = cell // 2
    return [(west, (left + 4, top + middle), "lm"), (north, (left + middle, top + 3), "mt")]


def _png(image: Image, **options: bytes) -> bytes:
    held = io.BytesIO()
    image.save(held, format="PNG", optimize=True, **options)
    return held.getvalue()
