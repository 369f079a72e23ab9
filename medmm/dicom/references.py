"""What a segmentation or structure set says of itself: what it was drawn on, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medmm.dicom import tags
from medmm.dicom.header import Header, mask_kind, read_header
from medmm.errors import DicomRefusal


@dataclass(frozen=True, slots=True)
class MaskReference:
    """What a segmentation or structure set says it was drawn on.

    Attributes:
        kind: "SEG" or "RTSTRUCT".
        frames_of_reference: FrameOfReferenceUIDs in which it is drawn.
        series_uids: the series it names.
        structures: SegmentLabel or ROIName, in stored order.
    """

    kind: str
    frames_of_reference: tuple[str, ...]
    series_uids: tuple[str, ...]
    structures: tuple[str, ...]


def mask_reference(path: Path) -> MaskReference:
    """Return what a segmentation or structure set was drawn on, without drawing it.

    Raises:
        DicomRefusal: ``unsupported_sop`` when the file is neither.
    """
    return reference_of(read_header(path, tags.INDEXED))


def reference_of(header: Header) -> MaskReference:
    """Return what a segmentation or structure set was drawn on; see :func:`mask_reference`."""
    kind = mask_kind(header)
    elements, own = header.elements, header.text(tags.FRAME_OF_REFERENCE)
    if kind == "SEG":
        series = [
            item.text(tags.SERIES_INSTANCE) for item in elements.sequences.get(tags.REFERENCED_SERIES, [])
        ]
        return MaskReference(kind, (own,), tuple(series), _labels(header, tags.SEGMENTS, tags.SEGMENT_LABEL))
    if kind != "RTSTRUCT":
        raise DicomRefusal("unsupported_sop", "neither a segmentation nor a structure set")
    frames, series = [own], []
    for frame in elements.sequences.get(tags.RT_FRAMES, []):
        frames.append(frame.text(tags.FRAME_OF_REFERENCE))
        for study in frame.sequences.get(tags.RT_STUDIES, []):
            items = study.sequences.get(tags.RT_SERIES, [])
            series.extend(item.text(tags.SERIES_INSTANCE) for item in items)
    labels = _labels(header, tags.ROIS, tags.ROI_NAME)
    return MaskReference(kind, tuple(dict.fromkeys(frames)), tuple(dict.fromkeys(series)), labels)


def _labels(header: Header, sequence: int, tag: int) -> tuple[str, ...]:
    return tuple(header.label(tag, item) for item in header.elements.sequences.get(sequence, []))
