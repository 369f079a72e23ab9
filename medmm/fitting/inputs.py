"""What the loop reads: prepared arrays of a set of patients, images once per cohort, tables per split.

Images have no fitted state, so they are transformed once and kept as a float16 memory map that every fold
shares; tables are transformed with the state fitted on each split's own training patients.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from medmm.arrays import Array, Bools, Ints
from medmm.cohort.site import site_key
from medmm.columns import ImageSpec
from medmm.dicom.loading import LOADER_VERSION
from medmm.dicom.parallel import each_bounded
from medmm.fitting.preparing import One, lost, prepare_one
from medmm.modality import Modality, present
from medmm.sample import Absence, SeriesSource, Source

Progress = Callable[[int, int], None]

OF_THE_NETWORK = {"encoder", "augment"}
"""Settings of an image block that begin where its prepared arrays end."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One modality's input of every patient.

    Attributes:
        array: ``[stored, *shape]``, float16 memory map for images, float32 for tables.
        row_of: per patient, the row of ``array``, or -1 where the modality is absent.
        absent: per patient, the reason of absence ("" where present).
        certificates: of every series that was opened, used or not: rows without a UID
            (:meth:`medmm.dicom.Certificate.row`), with the ``block``.
    """

    array: Array
    row_of: Ints
    absent: tuple[str, ...]
    certificates: tuple[Mapping[str, Any], ...] = ()

    def __reduce__(self) -> tuple[Callable[..., Prepared], tuple[Any, ...]]:
        """Let a memory map be sent to another process by the name of its file."""
        mapped = isinstance(self.array, np.memmap)
        array = Path(str(self.array.filename)) if isinstance(self.array, np.memmap) else self.array
        rest = (self.row_of, self.absent, self.certificates)
        return (_opened if mapped else Prepared), (array, *rest)


def _opened(file: Path, *rest: Any) -> Prepared:
    return Prepared(np.load(file, mmap_mode="r", allow_pickle=False), *rest)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Every modality's prepared input, in the order of the presence vector."""

    prepared: Mapping[str, Prepared]

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities, in the order of the presence vector's columns."""
        return tuple(self.prepared)

    @property
    def present(self) -> Bools:
        """Return ``[patient, modality]``."""
        return np.stack([entry.row_of >= 0 for entry in self.prepared.values()], axis=1)

    def only(self, names: Sequence[str]) -> Inputs:
        """Return the same patients with fewer modalities."""
        return Inputs({name: self.prepared[name] for name in names})

    def replace(self, entries: Mapping[str, Prepared]) -> Inputs:
        """Return a copy in which some modalities are prepared anew."""
        return Inputs({name: entries.get(name, entry) for name, entry in self.prepared.items()})

    def batch(self, patients: Ints) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return inputs ``[patient, *shape]``, zeros where absent, and presence ``[patient, modality]``."""
        inputs = {}
        present = np.empty((len(patients), len(self.prepared)), np.float32)
        for place, (name, entry) in enumerate(self.prepared.items()):
            rows = entry.row_of[patients]
            present[:, place] = known = rows >= 0
            # torch widens float16 several times as fast as numpy does.
            stored = torch.from_numpy(np.asarray(entry.array)[rows[known]]).float()
            if not known.all():
                values = torch.zeros(len(patients), *stored.shape[1:])
                values[torch.from_numpy(known)] = stored
                stored = values
            inputs[name] = stored
        return inputs, torch.from_numpy(present)


def prepare_images(
    modality: Modality, sources: Sequence[Source], cache: Path, *, progress: Progress | None = None
) -> Prepared:
    """Load and transform one image block of every patient, once, into a memory map under ``cache``.

    The file is named by a digest of what entered it (files with their size and time, reasons of absence,
    settings, versions of loader and transform); a run that finds it does not open a DICOM file. A refused
    series is an absence. One whose worker died is absent in this run alone: it may have lacked memory that
    others held, so the next run tries it again, with nothing beside it.
    """
    key = _key(modality, sources)
    stem = cache / f"{modality.name}-{key[:16]}"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = _cached(stem)
    if found is None or any(one.lost for one in found.ones()):
        _fill(modality, sources, stem, found, progress)
        found = _cached(stem)
        assert found is not None
    certificates = tuple(row for rows in found.certificates for row in rows)
    return Prepared(found.array, found.row_of, found.absent, certificates)


@dataclass(frozen=True, slots=True)
class _Cached:
    """What lies under a name: the memory map, and per patient what became of the image.

    Attributes:
        lost: whether the patient's worker died.
    """

    array: Array
    row_of: Ints
    absent: tuple[str, ...]
    certificates: tuple[tuple[Mapping[str, Any], ...], ...]
    lost: tuple[bool, ...]

    def ones(self) -> Iterator[One]:
        """Yield what became of each patient's image."""
        listed = zip(self.row_of, self.absent, self.certificates, self.lost, strict=True)
        for row, reason, certificates, gone in listed:
            yield One(self.array[row] if row >= 0 else None, reason, certificates, gone)


def _cached(stem: Path) -> _Cached | None:
    """Return what :func:`_fill` left; None where nothing did, or where it is damaged."""
    try:
        listing = json.loads(stem.with_suffix(".json").read_text())
        array = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        row_of = np.asarray(listing["row_of"], dtype=np.int64)
        certificates = tuple(tuple(rows) for rows in listing["certificates"])
        found = _Cached(array, row_of, tuple(listing["absent"]), certificates, tuple(listing["lost"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return found if row_of.max(initial=-1) < len(array) else None


def prepare_table(modality: Modality, rows: Sequence[Any]) -> Prepared:
    """Transform what tables hold of every patient with a fitted modality.

    Who has nothing (:class:`~medmm.sample.Absence`), or a row without a known field, is absent.
    """
    players = modality.players()
    blank = np.zeros(modality.shape, np.float32)
    blank[[player.missing_column for player in players]] = 1
    array = np.stack([blank if isinstance(row, Absence) else modality.transform(row) for row in rows])
    absent = tuple(
        row.reason if isinstance(row, Absence) else "" if present(players, values) else "no_known_value"
        for row, values in zip(rows, array, strict=True)
    )
    known = np.array([not reason for reason in absent], dtype=bool)
    return Prepared(array.astype(np.float32), np.where(known, np.arange(len(rows)), -1), absent)


def _fill(
    modality: Modality,
    sources: Sequence[Source],
    stem: Path,
    before: _Cached | None,
    progress: Progress | None,
) -> None:
    """Write the memory map row by row (bounded memory), then the listing that makes it valid.

    The work is done in a folder of its own, so that two runs at once do not write into each other's file.
    """
    with TemporaryDirectory(prefix=".preparing-", dir=stem.parent) as folder:
        raw, whole = Path(folder) / "raw", Path(folder) / "array.npy"
        ones: list[One] = []
        rows: list[int] = []
        shape: tuple[int, ...] = (1,)
        stored = 0
        with raw.open("wb") as stream:
            for done, one in enumerate(_prepared(modality, sources, before)):
                ones.append(replace(one, values=None))
                rows.append(-1 if one.values is None else stored)
                if one.values is not None:
                    shape, stored = one.values.shape, stored + 1
                    stream.write(one.values.tobytes())
                if progress:
                    progress(done + 1, len(sources))
        flat = np.memmap(raw, np.float16, "r") if stored else np.zeros(0, np.float16)
        np.save(whole, flat.reshape(stored, *shape))
        listing = Path(folder) / "listing.json"
        told = {
            "row_of": rows,
            "absent": [one.reason for one in ones],
            "certificates": [one.certificates for one in ones],
            "lost": [one.lost for one in ones],
        }
        listing.write_text(json.dumps(told))
        whole.replace(stem.with_suffix(".npy"))
        listing.replace(stem.with_suffix(".json"))


def _prepared(modality: Modality, sources: Sequence[Source], before: _Cached | None) -> Iterator[One]:
    """Yield what becomes of each patient's image, from scratch or where a worker died before."""
    key = site_key()
    work, gone = partial(prepare_one, modality, key), partial(lost, modality, key)
    if before is None:
        yield from each_bounded(work, sources, lost=gone)
        return
    for one, source in zip(before.ones(), sources, strict=True):
        yield from each_bounded(work, [source], lost=gone, processes=1) if one.lost else [one]


def _key(modality: Modality, sources: Sequence[Source]) -> str:
    digest = hashlib.sha256()
    versions = f"{LOADER_VERSION} {modality.transform_version}"
    settings = modality.settings.model_dump_json(exclude=OF_THE_NETWORK)
    digest.update(f"{modality.kind} {versions} {settings}".encode())
    if isinstance(modality.declaration, ImageSpec):
        digest.update(modality.declaration.model_dump_json().encode())
    for source in sources:
        if not isinstance(source, SeriesSource):
            digest.update(f"-{source.reason}\n".encode() if isinstance(source, Absence) else b"-\n")
            continue
        digest.update(source.pseudonym.encode())
        for file in sorted((*source.files, *source.masks)):
            stat = file.stat()
            digest.update(os.fsencode(file) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
