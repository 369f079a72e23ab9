"""The doors of the room: a file, a folder or a series' files become arrays, or refusals with reasons."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medmm.dicom import tags
from medmm.dicom.certificate import Certificate
from medmm.dicom.header import Header, kind_of, read_header
from medmm.dicom.regrid import RESAMPLED
from medmm.dicom.series import Plan, SeriesPlan, group, plan_series
from medmm.dicom.volume import Volume, realise
from medmm.dicom.wanted import Wanted, one_volume
from medmm.dicom.waveform import Waveform, read_waveform
from medmm.errors import DicomRefusal

LOADER_VERSION = 2
"""Raised whenever the same files would give another array or refusal; part of the key of prepared images."""


@dataclass(frozen=True)
class Loaded:
    """One result of :func:`load_series`.

    Attributes:
        status: "used", "set_aside" or "refused".
        reason: reason code when not used.
        detail: one sentence, without patient data.
        files: the files it stands for; every file of a folder is in at least one result.
        content: the array, when used.
        certificate: its row.
    """

    status: str
    reason: str
    detail: str
    files: tuple[Path, ...]
    content: Volume | Waveform | None
    certificate: Certificate


def load(path: str | Path, *, resample: bool = False) -> Volume | Waveform:
    """Load the one volume, image or waveform of a file or folder.

    Args:
        path: the file or folder.
        resample: whether slices that are sheared, unevenly spaced or missing (not more than two in a row)
            are interpolated to a regular grid instead of refused; the certificate says so.

    Raises:
        DicomRefusal: when there is not exactly one, or it must not be used.
    """
    path = Path(path)
    headers: list[Header] = []
    aside: list[tuple[Path, str]] = []
    for file in files_under(path):
        try:
            headers.append(read_header(file))
        except DicomRefusal as refusal:
            if refusal.reason != "not_dicom" or not path.is_dir():
                raise
            aside.append((file, refusal.reason))
    if not headers:
        raise DicomRefusal("no_dicom", "the folder holds no DICOM file")
    usable: list[Header] = []
    for header in headers:
        kind = kind_of(header)
        if kind in ("image", "waveform"):
            usable.append(header)
        else:
            aside.append((header.path, kind))
    if not usable:
        raise DicomRefusal(kind_of(headers[0]), "no object holds an image that could be loaded")
    groups = group(usable)
    if len(groups) > 1:
        raise DicomRefusal("multiple_series", f"{len(groups)} series; load_series returns them one by one")
    return _only(next(iter(groups.values())), aside, resample=resample)


def load_files(paths: Sequence[Path], *, resample: bool = False, volume: Wanted | None = None) -> Volume:
    """Load the volume or image made of the files of one chosen series.

    Args:
        paths: the files.
        resample: see :func:`load`.
        volume: of a series of several volumes, the values that tell which one is meant
            (``{"DiffusionBValue": 1000}``); a series of one volume must have them too.

    Raises:
        DicomRefusal: when they do not make exactly one, or it must not be used.
    """
    if not paths:
        raise DicomRefusal("no_dicom", "no file was given")
    groups = group(read_header(Path(path)) for path in paths)
    if len(groups) > 1:
        raise DicomRefusal("multiple_series", f"the files belong to {len(groups)} series")
    content = _only(next(iter(groups.values())), [], resample=resample, wanted=volume)
    if not isinstance(content, Volume):
        raise DicomRefusal("unsupported_sop", "the files hold a waveform, not an image")
    return content


def load_series(path: str | Path, *, resample: bool = False) -> Iterator[Loaded]:
    """Load everything in a folder: one result per volume, image, waveform, refused series or other files.

    An iterator, so that one series is in memory at a time; a bad series does not stop the others.

    Args:
        path: the file or folder.
        resample: see :func:`load`.

    Yields:
        Results in the order of study, series and volume; every file stands in at least one.
    """
    headers: list[Header] = []
    others: list[tuple[Path, DicomRefusal]] = []
    for file in files_under(Path(path)):
        try:
            headers.append(read_header(file))
        except DicomRefusal as refusal:
            others.append((file, refusal))
    for members in group(headers).values():
        yield from loaded_series(members, resample=resample)
    for reason in sorted({refusal.reason for _, refusal in others}):
        files = tuple(file for file, refusal in others if refusal.reason == reason)
        yield without_array("set_aside" if reason == "not_dicom" else "refused", reason, files, [])


def files_under(path: Path) -> list[Path]:
    """Return the files of a folder, at any depth, sorted; links to folders are not followed.

    Raises:
        DicomRefusal: ``no_dicom`` when the path does not exist.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DicomRefusal("no_dicom", "there is no such file or folder")
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if file.is_file())


def _only(
    members: list[Header],
    aside: list[tuple[Path, str]],
    *,
    resample: bool,
    wanted: Wanted | None = None,
) -> Volume | Waveform:
    series = plan_series(members)
    series.set_aside.extend(aside)
    if not series.plans:
        reasons = {reason for _, reason in series.set_aside}
        reason = "unsupported_sop" if "unsupported_sop" in reasons else "no_pixel_data"
        raise DicomRefusal(reason, "nothing is left to load")
    return realised(one_volume(series.plans, wanted), members, series, resample=resample)


def loaded_series(members: list[Header], *, resample: bool = False) -> Iterator[Loaded]:
    """Yield what the files of one series become."""
    paths = tuple(header.path for header in members)
    try:
        series = plan_series(members)
    except DicomRefusal as refusal:
        yield without_array("refused", refusal.reason, paths, members, detail=refusal.detail)
        return
    for plan in series.plans:
        files = tuple(dict.fromkeys(header.path for header in plan.headers))
        try:
            content = realised(plan, members, series, resample=resample)
        except DicomRefusal as refusal:
            yield without_array("refused", refusal.reason, files, members, detail=refusal.detail)
        else:
            yield Loaded("used", "", "", files, content, content.certificate)
    for reason in sorted({reason for _, reason in series.set_aside}):
        files = tuple(path for path, why in series.set_aside if why == reason)
        yield without_array("set_aside", reason, files, members)


def without_array(
    status: str, reason: str, files: tuple[Path, ...], members: list[Header], *, detail: str = ""
) -> Loaded:
    """Return the result of files that became no array."""
    aside = ((reason, len(files)),) if status == "set_aside" else ()
    refused = len(files) if status == "refused" else 0
    certificate = replace(
        _identity(members, status), reason=reason, detail=detail, files_set_aside=aside, files_refused=refused
    )
    return Loaded(status, reason, detail, files, None, certificate)


def _identity(members: list[Header], status: str) -> Certificate:
    if not members:
        return Certificate("", "", status)
    first = members[0]
    return Certificate(
        first.text(tags.STUDY_INSTANCE),
        first.text(tags.SERIES_INSTANCE),
        status,
        modality=first.text(tags.MODALITY),
        transfer_syntax=tuple(sorted({header.parsed.transfer_syntax for header in members})),
    )


def realised(
    plan: Plan, members: list[Header], series: SeriesPlan, *, resample: bool = False
) -> Volume | Waveform:
    """Turn a plan into its array.

    Raises:
        DicomRefusal: the plan's own, unless resampling is asked for and answers it.
    """
    if plan.refusal is not None and not (resample and plan.planes and plan.refusal.reason in RESAMPLED):
        raise plan.refusal
    summary = replace(
        _identity(members, "used"),
        files_used=len({header.path for header in plan.headers}),
        files_set_aside=tuple(sorted(Counter(reason for _, reason in series.set_aside).items())),
        told_apart_by=plan.told_apart_by,
    )
    if plan.kind == "waveform":
        return read_waveform(plan.headers[0], summary)
    return realise(plan, summary)
