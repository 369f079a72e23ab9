"""The 2-D images of one patient as one object: serial radiographs, cell crops, ultrasound views."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medmm.dicom import tags
from medmm.dicom.certificate import Certificate
from medmm.dicom.header import Header, read_header
from medmm.dicom.loading import Loaded, realised, without_array
from medmm.dicom.planes import planes_of
from medmm.dicom.series import Plan, SeriesPlan, group, plan_series
from medmm.dicom.volume import MAX_VOLUME_BYTES, Volume
from medmm.errors import DicomRefusal


@dataclass(frozen=True)
class Bag:
    """The images of one patient, in the order of their acquisition, then of their SOPInstanceUID.

    Attributes:
        images: ``[row column]`` or ``[row column 3]`` each; sizes and spacings may differ.
        acquired: per image, DICOM text "YYYYMMDD[HHMMSS.FFFFFF]" or "".
        left_out: what became no image, with its reason; every file stands in an image or here.
    """

    images: tuple[Volume, ...]
    acquired: tuple[str, ...]
    left_out: tuple[Loaded, ...]

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """Return the certificate of every image, then of everything left out."""
        return (
            *(image.certificate for image in self.images),
            *(result.certificate for result in self.left_out),
        )

    @property
    def certificate(self) -> Certificate:
        """Return one certificate of the whole: its digest is that of the images' digests, in their order."""
        parts = [image.certificate for image in self.images]
        digest = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
        modality = parts[0].modality if len({part.modality for part in parts}) == 1 else ""
        used = sum(part.files_used for part in parts)
        return Certificate("", "", "used", files_used=used, modality=modality, sha256=digest)


def load_bag(paths: Sequence[Path], *, frames: int = 0) -> Bag:
    """Load every 2-D image among the files of one patient, of however many studies and series.

    A volume is no picture: its slices are left out, as is what cannot be read.

    Args:
        paths: the files.
        frames: of a loop (frames without a place in space), how many become images, the middles of as many
            equal parts; all where it has no more, and with 0 the loop is left out.

    Raises:
        DicomRefusal: ``multiple_patients``; ``no_pixel_data`` when there is no image at all;
            ``resource_limit`` when they do not fit into the memory of one array.
    """
    headers: list[Header] = []
    left_out: list[Loaded] = []
    for path in sorted(map(Path, paths)):
        try:
            headers.append(read_header(path))
        except DicomRefusal as refusal:
            left_out.append(without_array("refused", refusal.reason, (path,), [], detail=refusal.detail))
    if len({header.patient for header in headers}) > 1:
        raise DicomRefusal("multiple_patients", "the images of a bag belong to several patients")
    found: list[tuple[str, str, Volume]] = []
    for members in group(headers).values():
        _series_images(members, found, left_out, frames)
    if not found:
        raise DicomRefusal("no_pixel_data", f"none of {len(paths)} files is a 2-D image")
    found.sort(key=lambda item: item[:2])
    return Bag(tuple(image for *_, image in found), tuple(when for when, *_ in found), tuple(left_out))


def _series_images(
    members: list[Header], found: list[tuple[str, str, Volume]], left_out: list[Loaded], frames: int
) -> None:
    """Add the images of one series, and what is left out of it."""
    try:
        series = plan_series(members)
    except DicomRefusal as refusal:
        paths = tuple(header.path for header in members)
        left_out.append(without_array("refused", refusal.reason, paths, members, detail=refusal.detail))
        return
    for plan in series.plans:
        try:
            images = _loop(plan, members, series, frames) if _is_loop(plan) and frames else None
            images = images or [_image(plan, members, series)]
            found += [(*_when(plan.headers[0]), image) for image in images]
        except DicomRefusal as refusal:
            files = tuple(dict.fromkeys(header.path for header in plan.headers))
            left_out.append(without_array("refused", refusal.reason, files, members, detail=refusal.detail))
        if sum(image.array.nbytes for *_, image in found) > MAX_VOLUME_BYTES:
            raise DicomRefusal("resource_limit", f"{len(found)} images hold more than the limit of one array")
    for reason in sorted({reason for _, reason in series.set_aside}):
        files = tuple(path for path, why in series.set_aside if why == reason)
        left_out.append(without_array("set_aside", reason, files, members))


def _is_loop(plan: Plan) -> bool:
    return plan.refusal is not None and plan.refusal.reason == "multiframe_not_spatial"


def _loop(plan: Plan, members: list[Header], series: SeriesPlan, frames: int) -> list[Volume]:
    """Return some frames of a loop, in their order, each an image; its file counts with the first of them."""
    planes = planes_of(plan.headers[0])
    count = min(frames, len(planes))
    images: list[Volume] = []
    for part in range(count):
        place = (2 * part + 1) * len(planes) // (2 * count)
        image = _image(Plan("image", plan.headers, (planes[place],)), members, series)
        notes = (*image.summary.notes, f"frame {place + 1} of {len(planes)}")
        images.append(replace(image, summary=replace(image.summary, files_used=int(part == 0), notes=notes)))
    return images


def _image(plan: Plan, members: list[Header], series: SeriesPlan) -> Volume:
    if plan.refusal is None and plan.kind != "image":  # said before it is decoded
        raise DicomRefusal("multiple_volumes", f"a {plan.kind} among the 2-D images of a bag")
    content = realised(plan, members, series)
    assert isinstance(content, Volume)
    return content


def _when(header: Header) -> tuple[str, str]:
    """Return (date and time of the acquisition, else of the series, else of the study; SOPInstanceUID)."""
    stated = (
        header.text(tags.ACQUISITION_DATETIME),
        _moment(header, tags.ACQUISITION_DATE, tags.ACQUISITION_TIME),
        _moment(header, tags.SERIES_DATE, tags.SERIES_TIME),
        header.text(tags.STUDY_DATE),
    )
    return next(filter(None, stated), ""), header.text(tags.SOP_INSTANCE)


def _moment(header: Header, date: int, time: int) -> str:
    day = header.text(date)
    return day + header.text(time) if day else ""
