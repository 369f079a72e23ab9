"""What is in a DICOM folder, for a person: its series with status, reason and geometry, and pictures.

The outline reads headers alone; the inspection loads every array. Patients and series are pseudonyms; a
description is shown as it was typed at the scanner, with a word of warning below.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmm.arrays import Float32
from medmm.dicom import tags
from medmm.dicom.certificate import Certificate
from medmm.dicom.geometry import canonical
from medmm.dicom.header import Header, read_header
from medmm.dicom.index import Index, Progress, SeriesEntry
from medmm.dicom.loading import Loaded
from medmm.dicom.parallel import load_many
from medmm.dicom.series import Plan, group, plan_series
from medmm.dicom.volume import Volume
from medmm.errors import DicomRefusal

SLICES_SHOWN = 5
LONGEST_SIDE = 192
"""Pixels of the longer side of a picture: no larger than a contact sheet draws it."""
WINDOW = (0.01, 0.99)
"""Quantiles of the valid pixels between which a picture is drawn."""
MAX_DESCRIPTION = 32
TYPED = (
    "descriptions are as typed at the scanner: one may name a person, so look before you pass this table on"
)

_PLANES = {0: ((1, 2), ("A", "S")), 1: ((0, 2), ("R", "S")), 2: ((0, 1), ("R", "A"))}
"""Per axis along which slices are stacked: the axes of a slice, and where they point to."""


@dataclass(frozen=True, slots=True)
class Row:
    """One volume, image, waveform or refusal of a series.

    Attributes:
        patient: pseudonym, 8 hex digits.
        series: pseudonym, 8 hex digits.
        modality: Modality (0008,0060).
        description: SeriesDescription, printable characters only.
        files: how many files it stands for.
        status: "usable" (headers alone were read), "used", "set_aside" or "refused".
        reason: reason code when it cannot be used.
        detail: one sentence, or the notes of its certificate.
        shape: of the array, in RAS+ axes or (row, column).
        spacing_mm: likewise.
    """

    patient: str
    series: str
    modality: str
    description: str
    files: int
    status: str
    reason: str
    detail: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Some slices of an array, to be drawn.

    Attributes:
        array: ``Float32[a b slice]`` or ``Float32[row column]``, cut to :data:`WINDOW`, square pixels.
        axes: where a and b point to ("R", "A"); None for [row, column] as displayed.
        caption: series pseudonym, modality, size.
    """

    array: Float32
    axes: tuple[str, str] | None
    caption: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one result of a series looks like.

    Attributes:
        row: its line of the table.
        picture: None for a waveform or a refusal.
        certificate: the volume certificate; it holds UIDs until its row is made.
    """

    row: Row
    picture: Picture | None
    certificate: Certificate


def outline(index: Index, key: bytes, *, progress: Progress | None = None) -> Iterator[Row]:
    """Yield the table of an index from the headers alone: what would load, and why the rest would not.

    Pixels are read only where slices share a place and their content decides.

    Args:
        index: of the folder.
        key: of the pseudonyms.
        progress: called with (series done, series in all).
    """
    for done, entry in enumerate(index.series):
        yield from _planned(index.root, entry, key)
        if progress is not None:
            progress(done + 1, len(index.series))


def inspect(
    index: Index, key: bytes, *, processes: int | None = None, progress: Progress | None = None
) -> Iterator[Found]:
    """Load every series of an index, in processes of their own, and yield what each becomes.

    Args:
        index: of the folder.
        key: of the pseudonyms.
        processes: see :func:`medmm.dicom.load_many`.
        progress: called with (series done, series in all).
    """
    files = [[index.root / file for file in entry.files] for entry in index.series]
    results = load_many(files, _seen, processes=processes)
    for done, (entry, seen) in enumerate(zip(index.series, results, strict=True)):
        for certificate, count, picture in seen:
            caption = f"{_pseudonym(key, entry.series_uid)} {certificate.modality} {_size(certificate.shape)}"
            row = _row(entry, key, certificate, count)
            yield Found(row, picture and Picture(picture.array, picture.axes, caption), certificate)
        if progress is not None:
            progress(done + 1, len(index.series))


def table_lines(rows: Iterable[Row]) -> list[str]:
    """Return the table as aligned lines of plain text, a header first; see :data:`TYPED` for the last."""
    table = list(rows)
    cells = [("patient", "series", "kind", "files", "status", "size", "spacing mm", "description / reason")]
    for row in table:
        good = "; ".join(filter(None, (row.description, row.detail)))
        why = f"{row.reason}: {row.detail}" if row.reason else good
        spacing = " x ".join(f"{value:.3g}" for value in row.spacing_mm) if row.spacing_mm else "-"
        size = _size(row.shape) or "-"
        cells.append(
            (row.patient, row.series, row.modality or "-", str(row.files), row.status, size, spacing, why)
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return [*lines, TYPED] if any(row.description and not row.reason for row in table) else lines


def file_lines(index: Index) -> list[str]:
    """Return what became of every file: counts that add up to the files on disk."""
    counts = Counter((entry.status, entry.reason) for entry in index.files)
    lines = [f"{len(index.files)} files, {len(index.series)} series, {index.opened} opened in this scan"]
    for (status, reason), count in sorted(counts.items()):
        lines.append(f"{count:>9}  {'in a series' if status == 'series' else f'{status}: {reason}'}")
    for kind, count in sorted(Counter(mask.reference.kind for mask in index.masks).items()):
        lines.append(f"{count:>9}  {kind} among those set aside, to be loaded as masks")
    return lines


def _planned(root: Path, entry: SeriesEntry, key: bytes) -> Iterator[Row]:
    """Yield the rows of one series from its headers."""
    headers: list[Header] = []
    try:
        for file in entry.files:
            headers.append(read_header(root / file))
        plans = plan_series(next(iter(group(headers).values()))).plans
    except DicomRefusal as refusal:
        certificate = Certificate("", "", "refused", refusal.reason, refusal.detail, modality=entry.modality)
        yield _row(entry, key, certificate, len(entry.files))
        return
    for plan in plans:
        status, reason, detail = "usable", "", " ".join(plan.told_apart_by)
        if plan.refusal is not None:
            status, reason, detail = "refused", plan.refusal.reason, plan.refusal.detail
        shape, spacing = _geometry(plan)
        modality = plan.headers[0].text(tags.MODALITY)
        certificate = Certificate(
            "", "", status, reason, detail, shape=shape, spacing_mm=spacing, modality=modality
        )
        yield _row(entry, key, certificate, len({header.path for header in plan.headers}))


def _geometry(plan: Plan) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Return the shape and spacing that the array of a plan will have."""
    if not plan.planes:
        return (), None
    first = plan.planes[0]
    if plan.stack is None:
        refused = (*first.shape[::-1], len(plan.planes)), None
        return (first.shape, first.spacing) if plan.kind == "image" else refused
    stored = (first.shape[1], first.shape[0], len(plan.planes))
    axes, _ = canonical(plan.stack.affine)
    return tuple(stored[axis] for axis in axes), tuple(plan.stack.spacing_mm[axis] for axis in axes)


def _seen(loaded: Loaded) -> tuple[Certificate, int, Picture | None]:
    """Return what a worker sends back of one result: no array of full size."""
    picture = _picture(loaded.content) if isinstance(loaded.content, Volume) else None
    return loaded.certificate, len(loaded.files), picture


def _picture(volume: Volume) -> Picture:
    """Return the middle slices of a volume, or an image, in luminance."""
    values: Any = volume.array if volume.photometric != "RGB" else volume.array.mean(axis=-1)
    if values.ndim == 2:
        chosen, axes, spacing = values[..., None], None, volume.spacing_mm or (1.0, 1.0)
        valid = volume.valid[..., None]
    else:
        steps = volume.spacing_mm or (1.0, 1.0, 1.0)
        across = _stacked_along(values.shape, steps)
        inside, axes = _PLANES[across]
        wanted = np.linspace(0, values.shape[across] - 1, SLICES_SHOWN + 2)[1:-1]
        places = np.unique(np.rint(wanted).astype(int))
        chosen = np.moveaxis(np.take(values, places, axis=across), across, 2)
        valid = np.moveaxis(np.take(volume.valid, places, axis=across), across, 2)
        spacing = (steps[inside[0]], steps[inside[1]])
    scale = max(size * mm for size, mm in zip(chosen.shape[:2], spacing, strict=True)) / LONGEST_SIDE
    rows, columns = (
        np.minimum((np.arange(max(round(size * mm / scale), 1)) * scale / mm).astype(int), size - 1)
        for size, mm in zip(chosen.shape[:2], spacing, strict=True)
    )
    small = chosen[np.ix_(rows, columns)].astype(np.float32)
    known = small[valid[np.ix_(rows, columns)]]
    if known.size:
        small = np.clip(small, *np.quantile(known, WINDOW)).astype(np.float32)
    return Picture(small[..., 0] if axes is None else small, axes, "")


def _stacked_along(shape: Sequence[int], steps: Sequence[float]) -> int:
    """Return the axis along which slices lie: by far the fewest voxels, else the widest spacing, else z."""
    few, more = sorted(range(3), key=lambda axis: shape[axis])[:2]
    if 2 * shape[few] <= shape[more]:
        return few
    return max(range(3), key=lambda axis: (steps[axis], axis))


def _row(entry: SeriesEntry, key: bytes, certificate: Certificate, files: int) -> Row:
    return Row(
        patient=_pseudonym(key, entry.patient_id),
        series=_pseudonym(key, entry.series_uid),
        modality=_printable(certificate.modality or entry.modality)[:8],
        description=_printable(entry.description)[:MAX_DESCRIPTION],
        files=files,
        status=certificate.status,
        reason=certificate.reason,
        detail=_printable(certificate.detail or "; ".join(certificate.notes)),
        shape=certificate.shape,
        spacing_mm=certificate.spacing_mm,
    )


def _pseudonym(key: bytes, identifier: str) -> str:
    return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:8]


def _printable(value: str) -> str:
    """Return a text of the file without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in value)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
