"""One file's header: whose it is, what kind of object, and how its pixels are laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from medmm.dicom import tags
from medmm.dicom.elements import Elements, Parsed, PixelPlace
from medmm.dicom.parse import parse
from medmm.errors import DicomRefusal

MAX_FRAME_VALUES = 3 << 26
"""Most values (pixels × samples) of one frame: 8192 × 8192 in colour."""
MAX_FRAMES = 100_000

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_PIXELS_BUT_NO_IMAGE = frozenset(
    _STORAGE + end
    for end in ("30", "66.4", "66.7", "66.8", "77.1.6", "77.1.8", "481.2", "481.23", "200.2", "601.2")
)
"""Parametric map, segmentations, whole-slide microscopy, dose: pixels that are not intensities of a plane."""
_NO_PIXELS = (
    *(_STORAGE + end for end in ("11.", "66", "67", "68.", "78.", "79.", "80.", "88.", "104.", "131", "9.4")),
    *(_STORAGE + end for end in ("200.1", "200.3", "481.10", "481.11")),
    *(f"{_STORAGE}481.{end}" for end in range(3, 10)),
    "1.2.840.10008.1.3.10",
    "1.2.840.10008.5.1.4.34",
    "1.2.840.10008.5.1.4.38",
    "1.2.840.10008.5.1.4.43",
)
"""Reports, presentation states, plans, registrations, encapsulated documents, DICOMDIR."""
_WAVEFORMS = _STORAGE + "9."
PROJECTIONS = frozenset({"CR", "DX", "MG", "IO", "PX", "RF", "XA", "RG", "DR", "RTIMAGE"})
"""Modalities whose image is a projection."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels of one object are stored (PS3.3 C.7.6.3), validated.

    Attributes:
        frames: number of frames, at least 1.
        signed: two's complement in the low ``bits_stored`` bits, shifted up by ``shift``.
        planar: whether colour is stored plane by plane.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    shift: int
    signed: bool
    planar: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame; the last bits of a bit-packed one are counted per object."""
        values = self.rows * self.columns
        if self.photometric == "YBR_FULL_422":
            return values * 2 * self.bits_allocated // 8
        return values * self.samples * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Header:
    """One file, walked: its elements and the place of its pixels."""

    path: Path
    parsed: Parsed

    @property
    def elements(self) -> Elements:
        """Return the elements kept."""
        return self.parsed.elements

    @property
    def pixels(self) -> PixelPlace | None:
        """Return where the pixels lie."""
        return self.parsed.pixels

    def text(self, tag: int) -> str:
        """Return an element of the default repertoire."""
        return self.elements.text(tag)

    @property
    def sop_class(self) -> str:
        """Return the SOP class, from the data set or else from the file meta information."""
        return self.text(tags.SOP_CLASS) or self.text(tags.MEDIA_STORAGE_SOP_CLASS)

    @property
    def patient(self) -> tuple[str, str]:
        """Return (PatientID, IssuerOfPatientID)."""
        return self.label(tags.PATIENT_ID), self.label(tags.ISSUER)

    def label(self, tag: int, item: Elements | None = None) -> str:
        """Return a text in the object's own character set, at most 256 characters, of it or of an item."""
        value = (item or self.elements).values.get(tag, b"")[:1024]
        return decode_text(value, self.text(tags.CHARACTER_SET))[:256]

    @property
    def projection(self) -> bool:
        """Return whether this is a projection X-ray."""
        return self.text(tags.MODALITY) in PROJECTIONS


def read_header(path: Path, wanted: frozenset[int] = tags.LOADED) -> Header:
    """Read one file's header.

    Raises:
        DicomRefusal: ``not_dicom``, ``corrupt`` or ``resource_limit``.
    """
    return Header(path, parse(path, wanted))


def kind_of(header: Header) -> str:
    """Return what an object is for: "image", "waveform", or the reason why it is set aside.

    The SOP class decides (PS3.4 B.5), and where it is absent or private, whether there are pixels.
    """
    sop = header.sop_class
    if sop in _PIXELS_BUT_NO_IMAGE:
        return "unsupported_sop"
    if sop.startswith(_NO_PIXELS):
        return "no_pixel_data"
    if sop.startswith(_WAVEFORMS):
        return "waveform"
    if header.pixels is None and not header.parsed.truncated:
        return "no_pixel_data"
    if sop and not sop.startswith(_STORAGE):
        return "unsupported_sop"
    return "image"


_MASKS = {
    _STORAGE + "66.4": "SEG",
    _STORAGE + "66.7": "SEG",
    _STORAGE + "481.3": "RTSTRUCT",
}
"""Segmentation, label map segmentation, structure set."""


def mask_kind(header: Header) -> str:
    """Return "SEG" or "RTSTRUCT", "" when the object is neither."""
    return _MASKS.get(header.sop_class, "")


def layout_of(header: Header) -> Layout:
    """Return how the pixels are stored, checked against themselves and the limits.

    Raises:
        DicomRefusal: ``missing_tags``, ``corrupt``, ``unsupported_photometric`` or ``resource_limit``.
    """
    elements, photometric = header.elements, _photometric(header)
    rows, columns = _required(elements, tags.ROWS, "Rows"), _required(elements, tags.COLUMNS, "Columns")
    allocated = _required(elements, tags.BITS_ALLOCATED, "BitsAllocated")
    stored = _required(elements, tags.BITS_STORED, "BitsStored")
    samples = elements.integer(tags.SAMPLES_PER_PIXEL) or _SAMPLES[photometric]
    high = elements.integer(tags.HIGH_BIT)
    shift = 0 if high is None else high + 1 - stored
    sign = _required(elements, tags.PIXEL_REPRESENTATION, "PixelRepresentation")
    frames = elements.integer(tags.NUMBER_OF_FRAMES) or 1
    if rows < 1 or columns < 1 or frames < 1:
        raise DicomRefusal("corrupt", f"Rows {rows}, Columns {columns}, NumberOfFrames {frames}")
    if samples != _SAMPLES[photometric] or (allocated == 1 and samples > 1):
        raise DicomRefusal("corrupt", f"{samples} samples per pixel in a {photometric} image")
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated or shift < 0 or sign not in (0, 1):
        raise DicomRefusal("corrupt", f"{stored} bits stored in {allocated}, high bit {high}")
    if rows * columns * samples > MAX_FRAME_VALUES or frames > MAX_FRAMES:
        _limit(header, rows * columns * samples * allocated // 8 * frames)
    planar = elements.integer(tags.PLANAR_CONFIGURATION) == 1 and samples > 1
    return Layout(
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        photometric=photometric,
        bits_allocated=allocated,
        bits_stored=stored,
        shift=min(shift, allocated - stored),
        signed=sign == 1,
        planar=planar,
    )


def _photometric(header: Header) -> str:
    """Return PhotometricInterpretation, one of those that are read."""
    if header.parsed.truncated and header.pixels is None:
        raise DicomRefusal("corrupt", "the file ends inside its header")
    photometric = header.text(tags.PHOTOMETRIC).upper()
    if not photometric:
        raise DicomRefusal("missing_tags", "PhotometricInterpretation is absent")
    if photometric not in _SAMPLES:
        raise DicomRefusal("unsupported_photometric", "PhotometricInterpretation is not one that medmm reads")
    return photometric


_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_RCT": 3,
    "YBR_ICT": 3,
}


def _required(elements: Elements, tag: int, keyword: str) -> int:
    value = elements.integer(tag)
    if value is None:
        raise DicomRefusal("missing_tags", f"{keyword} is absent")
    return value


def _limit(header: Header, needed: int) -> None:
    """Refuse an image above the limits: as corrupt where the file cannot even hold it."""
    place = header.pixels
    if place is not None and not place.encapsulated and place.available < needed:
        raise DicomRefusal(
            "corrupt", f"the header promises {needed} bytes of pixels, the file has {place.available}"
        )
    raise DicomRefusal("resource_limit", f"an image of {needed} bytes per object is above the limit")


def spacing_of(header: Header) -> tuple[tuple[float, float] | None, str]:
    """Return ((row spacing, column spacing) in mm, where it was measured), (None, "") when there is none.

    PixelSpacing[0] lies between rows, [1] between columns (PS3.3 10.7.1.3). A spacing that was measured
    elsewhere than in the patient is taken for projections, scanned films and ultrasound alone, and says so.
    Zero in a projection is how some writers leave it open; elsewhere it is a fault.

    Raises:
        DicomRefusal: ``invalid_spacing`` when it is zero, negative or not a number.
    """
    elements = header.elements
    for tag, place in ((tags.PIXEL_SPACING, "in the patient"), *_elsewhere(header)):
        values = elements.numbers(tag)
        spacing = None if header.projection and not any(values) else checked_spacing(values)
        if spacing is not None:
            return spacing, place
    if header.text(tags.MODALITY) == "US":
        spacing = _region_spacing(elements.sequences.get(tags.ULTRASOUND_REGIONS, []))
        return spacing, "in the ultrasound region" if spacing else ""
    return None, ""


def _elsewhere(header: Header) -> tuple[tuple[int, str], ...]:
    scanned = (tags.NOMINAL_SCANNED_SPACING, "on the scanned film")
    if header.projection:
        detector = (tags.IMAGER_PIXEL_SPACING, "at the detector")
        return detector, scanned, (tags.IMAGE_PLANE_SPACING, "in the image plane")
    return (scanned,) if header.sop_class == _SECONDARY_CAPTURE else ()


_SECONDARY_CAPTURE = _STORAGE + "7"
_CENTIMETRES, _TISSUE_PLANE = 3, 1


def _region_spacing(regions: list[Elements]) -> tuple[float, float] | None:
    """Return the spacing that all two-dimensional regions in centimetres agree on (PS3.3 C.8.5.5)."""
    found = set()
    for region in regions:
        if region.integer(tags.REGION_FORMAT) != _TISSUE_PLANE:
            continue
        if any(region.integer(tag) != _CENTIMETRES for tag in tags.REGION_UNITS):
            return None
        found.add(tuple(10 * abs(region.number(tag) or 0) for tag in reversed(tags.REGION_DELTAS)))
    return checked_spacing(found.pop()) if len(found) == 1 else None


MAX_SPACING_MM = 1000.0
"""A pixel larger than a patient is no spacing."""


def checked_spacing(values: tuple[float, ...]) -> tuple[float, float] | None:
    """Return a pair of spacings in mm, None when absent.

    Raises:
        DicomRefusal: ``invalid_spacing``.
    """
    if not values:
        return None
    if len(values) != 2 or not all(math.isfinite(value) and 0 < value <= MAX_SPACING_MM for value in values):
        raise DicomRefusal("invalid_spacing", "the pixel spacing is not two positive numbers of millimetres")
    return values[0], values[1]


_CODECS = {
    "": "latin-1",
    "ISO_IR 6": "ascii",
    "ISO_IR 100": "latin-1",
    "ISO_IR 101": "iso8859-2",
    "ISO_IR 109": "iso8859-3",
    "ISO_IR 110": "iso8859-4",
    "ISO_IR 144": "iso8859-5",
    "ISO_IR 127": "iso8859-6",
    "ISO_IR 126": "iso8859-7",
    "ISO_IR 138": "iso8859-8",
    "ISO_IR 148": "iso8859-9",
    "ISO_IR 203": "iso8859-15",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 166": "tis-620",
    "ISO_IR 192": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}


def decode_text(value: bytes, character_set: str) -> str:
    """Return a text in its declared character set (PS3.5 6.1), without padding.

    Pure ASCII needs no table. A set that is unknown, or bytes that are not in it, are kept byte by byte:
    an identifier must stay distinct even where it cannot be shown.
    """
    return _decode(value, character_set).strip(" \0")


def _decode(value: bytes, character_set: str) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        if character_set in _CODECS:
            return value.decode(_CODECS[character_set])
        return _decode_extended(value, character_set)
    except (UnicodeDecodeError, LookupError):
        return value.decode("latin-1")


def _decode_extended(value: bytes, character_set: str) -> str:
    """Return a text with code extensions (ISO 2022), which pydicom knows."""
    import warnings

    from pydicom.charset import convert_encodings, decode_bytes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encodings = convert_encodings([part.strip() for part in character_set.split("\\")])
        return str(decode_bytes(value, encodings, {"\\"}))
