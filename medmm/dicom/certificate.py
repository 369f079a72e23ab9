"""The volume certificate: one row per array or refusal; it makes a cohort reproducible, a fault visible."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from medmm.arrays import Array


@dataclass(frozen=True, slots=True)
class Certificate:
    """What became of one series, or of one volume of it.

    Attributes:
        study_uid: real; leaves only as a pseudonym, by :meth:`row`.
        series_uid: real; leaves only as a pseudonym.
        status: "used", "set_aside" or "refused".
        reason: reason code when not used.
        detail: one sentence, without patient data.
        files_used: how many files the array comes from.
        files_set_aside: reason → number of files.
        files_refused: how many files could not be used.
        shape: of the array.
        spacing_mm: in the array's axis order.
        orientation: what the array's axes point to, "RAS", or "row column" in 2-D.
        modality: Modality (0008,0060).
        rescale: "none", "one", "per slice", "lookup table".
        units: RescaleType, or Units of a PET.
        transfer_syntax: of the files used, sorted.
        told_apart_by: elements that separate this volume from others of its series.
        notes: what a reader should know: few slices, thickness unlike the spacing, overlays …
        minimum: of the valid pixels of the array.
        maximum: of the valid pixels of the array.
        sha256: of the array: dtype, shape, then the values, in a volume with x running fastest.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    status: str
    reason: str = ""
    detail: str = ""
    files_used: int = 0
    files_set_aside: tuple[tuple[str, int], ...] = ()
    files_refused: int = 0
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    orientation: str = ""
    modality: str = ""
    rescale: str = ""
    units: str = ""
    transfer_syntax: tuple[str, ...] = ()
    told_apart_by: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    sha256: str = ""

    def row(self, key: bytes) -> dict[str, Any]:
        """Return the certificate as plain values, its UIDs replaced by keyed pseudonyms (16 hex digits)."""
        values = asdict(self)
        for name in ("study_uid", "series_uid"):
            uid = values.pop(name)
            values[name.replace("_uid", "")] = hmac.new(key, uid.encode(), hashlib.sha256).hexdigest()[:16]
        values["files_set_aside"] = dict(self.files_set_aside)
        if self.spacing_mm is not None:
            values["spacing_mm"] = tuple(map(float, self.spacing_mm))
        return values

    def measured(self, array: Array, valid: Array) -> Certificate:
        """Return the certificate with what only the array itself can tell."""
        inside = array if valid.all() else array[valid]
        digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
        # Volumes lie in memory slice by slice: hashing them in that order copies nothing twice.
        for plane in np.swapaxes(array, 0, 2) if self.orientation == "RAS" else array:
            digest.update(np.ascontiguousarray(plane).data)
        return replace(
            self,
            minimum=float(inside.min()) if inside.size else None,
            maximum=float(inside.max()) if inside.size else None,
            sha256=digest.hexdigest(),
        )


def certificate_rows(certificates: Iterable[Certificate], key: bytes) -> dict[str, list[Any]]:
    """Return certificates as the columns of a table, sorted so that the order of files plays no part.

    Every column holds values of one type, or None: text, int, float, or lists of them; ``files_set_aside``
    is a list of "reason: count". No UID is in it, only pseudonyms.

    Args:
        certificates: of any number of series.
        key: of the pseudonyms.
    """
    return certificate_columns(certificate.row(key) for certificate in certificates)


def certificate_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows of :meth:`Certificate.row`, perhaps from several places, as sorted columns of a table."""
    table = [dict(row) for row in rows]
    for row in table:
        aside = row["files_set_aside"]
        row["files_set_aside"] = [f"{reason}: {aside[reason]}" for reason in sorted(aside)]
        for name, value in row.items():
            row[name] = list(value) if isinstance(value, tuple) else value
    table.sort(key=lambda row: (row["study"], row["series"], row["told_apart_by"], row["sha256"], repr(row)))
    names = list(table[0]) if table else list(Certificate("", "", "").row(b""))
    return {name: [row[name] for row in table] for name in names}


def certificate_summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what certificates say together, of no single series: it may leave the site.

    Returns:
        ``status``: how many per status and per "status.reason"; ``transfer_syntax`` and ``modality``: how
        many of each; ``spacing_mm``: (smallest, largest) per axis, by the number of axes ("2-D", "3-D").
    """
    status: Counter[str] = Counter({"used": 0, "set_aside": 0, "refused": 0})
    syntaxes: Counter[str] = Counter()
    modalities: Counter[str] = Counter()
    spacings: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        status[row["status"]] += 1
        if row["reason"]:
            status[f"{row['status']}.{row['reason']}"] += 1
        syntaxes.update(row["transfer_syntax"])
        modalities.update([row["modality"]] if row["modality"] else [])
        if row["spacing_mm"]:
            spacings[f"{len(row['spacing_mm'])}-D"].append(tuple(row["spacing_mm"]))
    return {
        "status": dict(sorted(status.items())),
        "transfer_syntax": dict(sorted(syntaxes.items())),
        "modality": dict(sorted(modalities.items())),
        "spacing_mm": {
            kind: [(min(axis), max(axis)) for axis in zip(*found, strict=True)]
            for kind, found in sorted(spacings.items())
        },
    }


def certificate_counts(certificates: Iterable[Certificate]) -> dict[str, int]:
    """Return how many volumes or series were used, set aside and refused, in all and per reason.

    The names suit a tracking server's metrics: "used", "refused", "refused.missing_slices" …
    """
    counts: Counter[str] = Counter({"used": 0, "set_aside": 0, "refused": 0})
    for certificate in certificates:
        counts[certificate.status] += 1
        if certificate.reason:
            counts[f"{certificate.status}.{certificate.reason}"] += 1
    return dict(sorted(counts.items()))
