"""What a compressed frame says of itself, read before a codec is trusted with it.

A codec that meets a cut stream returns a half-grey picture without a word, and one that believes a size of
60000 × 60000 allocates for it. So the few numbers that matter are compared with the header first.
"""

from __future__ import annotations

import struct

from medmm.dicom.header import Layout
from medmm.errors import DicomRefusal

_RLE = "1.2.840.10008.1.2.5"
JPEG2000 = tuple("1.2.840.10008.1.2.4." + end for end in ("90", "91", "201", "202", "203"))
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_PARAMETERLESS = frozenset({0x01, *range(0xD0, 0xD9)})


def check_codestream(stream: bytes, syntax: str, layout: Layout) -> None:
    """Compare one compressed frame with its header.

    Raises:
        DicomRefusal: ``corrupt`` when the size, the samples or the end of the stream is wrong.
    """
    if syntax == _RLE:
        _check_rle(stream, layout)
    elif syntax in JPEG2000:
        _check_jpeg2000(stream, layout)
    else:
        _check_jpeg(stream, layout)


def _expect(found: tuple[int, int, int], layout: Layout) -> None:
    if found != (layout.rows, layout.columns, layout.samples):
        raise DicomRefusal("corrupt", "the compressed image has another size than the header promises")


def _check_rle(stream: bytes, layout: Layout) -> None:
    """RLE (PS3.5 annex G): one segment per byte of a pixel, offsets ascending inside the fragment."""
    if len(stream) < 64:
        raise DicomRefusal("corrupt", "an RLE frame is shorter than its header")
    count, *offsets = struct.unpack_from("<16I", stream)
    expected = layout.samples * layout.bits_allocated // 8
    used = offsets[: min(count, 15)]
    if count != expected or not used or used[0] != 64 or used != sorted(used) or used[-1] >= len(stream):
        raise DicomRefusal("corrupt", "the segments of an RLE frame do not fit it")
    # A run of two bytes unfolds to 128 at most, so a segment that is too short cannot fill its plane.
    for start, stop in zip(used, [*used[1:], len(stream)], strict=True):
        if (stop - start) * 64 < layout.rows * layout.columns:
            raise DicomRefusal("corrupt", "a segment of an RLE frame is too short for the image")


def _check_jpeg2000(stream: bytes, layout: Layout) -> None:
    """JPEG 2000 (ISO 15444-1 A.5.1): SIZ follows SOC; EOC ends the stream."""
    start = 0
    if stream[4:8] == b"jP  ":
        start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0 or stream[start : start + 4] != b"\xff\x4f\xff\x51" or len(stream) < start + 42:
        raise DicomRefusal("corrupt", "a JPEG 2000 frame does not begin with its size")
    width, height, left, top = struct.unpack_from(">4I", stream, start + 8)
    components = struct.unpack_from(">H", stream, start + 40)[0]
    _expect((height - top, width - left, components), layout)
    if b"\xff\xd9" not in stream[-16:]:
        raise DicomRefusal("corrupt", "a JPEG 2000 frame ends before its end marker")


def _check_jpeg(stream: bytes, layout: Layout) -> None:
    """JPEG and JPEG-LS (ISO 10918-1 B.1): a frame header, at least one scan, EOI at the end."""
    position, size = 2, None
    if stream[:2] != b"\xff\xd8":
        raise DicomRefusal("corrupt", "a JPEG frame does not begin with its start marker")
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise DicomRefusal("corrupt", "the markers of a JPEG frame are damaged")
        marker = stream[position + 1]
        if marker == 0xFF or marker in _PARAMETERLESS:
            position += 1 if marker == 0xFF else 2
            continue
        length = struct.unpack_from(">H", stream, position + 2)[0]
        if marker in _FRAME_HEADERS and position + 10 <= len(stream):
            size = struct.unpack_from(">HHB", stream, position + 5)
        if marker == 0xDA:
            break
        position += 2 + length
    if size is None:
        raise DicomRefusal("corrupt", "a JPEG frame has no frame header")
    _expect((size[0], size[1], size[2]), layout)
    if b"\xff\xd9" not in stream[-16:]:
        raise DicomRefusal("corrupt", "a JPEG frame ends before its end marker")
