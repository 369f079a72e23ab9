"""The DICOM folders of a cohort: who has which series, which one is chosen, what became of every file."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medmm.cohort.flow import Account
from medmm.cohort.images import Look, absence, acquired, choose, earliest_or_latest, look
from medmm.cohort.masks import MaskLook, choose_mask, look_at_masks
from medmm.cohort.moments import Moment
from medmm.cohort.site import pseudonym
from medmm.cohort.spec import CohortSpec
from medmm.cohort.timezones import local_index
from medmm.columns import ImageSpec, MaskSpec
from medmm.errors import DataError
from medmm.sample import Absence, SeriesSource
from medmm.sources.tables import contained

if TYPE_CHECKING:
    from medmm.dicom.index import Index, SeriesEntry

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One series, or mask, of one kept subject, looked at for one image block.

    Attributes:
        block: the image block, or "<block>.mask".
        subject: the subject's pseudonym.
        series: the pseudonym of the series, or of the mask.
        reason: why it was not chosen ("later", "undated", "not_eligible: modality", "another was chosen");
            empty when it was.
        offset_days: acquisition relative to the prediction time, or None when undated.
    """

    block: str
    subject: str
    series: str
    chosen: bool
    reason: str
    offset_days: float | None
    files: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What was looked at for one block of one subject, and what was taken.

    Attributes:
        taken: one series, none, or several where the block chooses ``all``.
        mask_looks: masks drawn on the series that was taken.
        masks: files of the mask that goes with it: (folder of a block, path).
    """

    looks: tuple[Look, ...]
    taken: tuple[Look, ...]
    mask_looks: tuple[MaskLook, ...] = ()
    masks: tuple[tuple[str, str], ...] = ()

    def files(self, folder: str) -> set[tuple[str, str]]:
        """Return every file that was taken, given the folder of the block."""
        return {(folder, name) for found in self.taken for name in found.entry.files} | set(self.masks)


@dataclass(slots=True)
class Archive:
    """The scanned folders.

    Attributes:
        spec: says which block looks where.
        root: folder of the data.
        indexes: one per folder.
        wanted: the subjects asked for; None for everybody.
    """

    spec: CohortSpec
    root: Path
    indexes: Mapping[str, Index]
    wanted: tuple[str, ...] | None = None
    _series: dict[str, dict[str, list[SeriesEntry]]] = field(default_factory=dict)
    _ambiguous: set[str] = field(default_factory=set)

    @classmethod
    def scan(
        cls,
        spec: CohortSpec,
        root: Path,
        *,
        crosswalk: Mapping[tuple[str, str], str] | None = None,
        wanted: tuple[str, ...] | None = None,
        cache: Path | None = None,
        progress: Progress | None = None,
    ) -> Archive:
        """Scan every folder that an image block names, each once.

        Raises:
            DataError: if a folder is missing.
        """
        indexes = {}
        for folder in sorted({image.dir for image in spec.images.values()}):
            path = contained(root, folder)
            if not path.is_dir():
                raise DataError(
                    f"the image folder {folder} is not in {root}; check `dir`, or pass another --root (where"
                    " nobody has such images, make it, empty)"
                )
            index = _scan(path, cache, progress)
            indexes[folder] = local_index(index, spec.timezone) if spec.timezone else index
        archive = cls(spec, root, indexes, wanted)
        for folder, index in indexes.items():
            archive._group(folder, index, crosswalk)
        return archive

    def subjects(self) -> set[str]:
        """Return every subject, or PatientID without one, that has a series."""
        found = {subject for folder in self._series.values() for subject in folder if subject}
        return found if self.wanted is None else found & set(self.wanted)

    def prediction_time(self, subject: str) -> tuple[Moment, str] | None:
        """Return when the study that defines a subject's prediction time was acquired, and what says so."""
        image = self.spec.images[self.spec.prediction_time.from_image or ""]
        looks = [self._look(subject, entry, image, None) for entry in self._of(subject, image)]
        found = earliest_or_latest(looks, image)
        return None if found is None else (found[1], acquired(found[0].entry, image)[1])

    def choose(self, subject: str, prediction: Moment) -> dict[str, Choice]:
        """Look at all series of a subject and choose one per block."""
        choices = {}
        for block, image in self.spec.images.items():
            looks = tuple(
                self._look(subject, entry, image, prediction, block) for entry in self._of(subject, image)
            )
            choices[block] = Choice(looks, choose(looks, image))
        for block, image in self.spec.images.items():
            if image.mask is not None and choices[block].taken:
                choices[block] = self._with_mask(choices, block, image.mask, prediction)
        return choices

    def _with_mask(
        self, choices: Mapping[str, Choice], block: str, mask: MaskSpec, prediction: Moment
    ) -> Choice:
        choice = choices[block]
        if mask.block is not None:
            found = choices[mask.block]
            return replace(choice, masks=tuple(sorted(found.files(self.spec.images[mask.block].dir))))
        folder = self.spec.images[block].dir
        same_day = block == self.spec.prediction_time.from_image or self.spec.same_day.index_study == "known"
        looks = look_at_masks(
            self.indexes[folder].masks_of(choice.taken[0].entry), mask, prediction, same_day=same_day
        )
        taken = choose_mask(looks)
        return replace(choice, mask_looks=looks, masks=((folder, taken.entry.path),) if taken else ())

    def source(self, block: str, choice: Choice, key: bytes) -> SeriesSource | Absence:
        """Return what the modality of a block is given."""
        if not choice.taken:
            return Absence(absence(choice.looks))
        folder = contained(self.root, self.spec.images[block].dir)
        offsets = [found.offset_days for found in choice.taken]
        dated = [offset for offset in offsets if offset is not None]
        return SeriesSource(
            tuple(folder / name for found in choice.taken for name in found.entry.files),
            max(dated) if dated else None,
            len(dated) < len(offsets),
            pseudonym(key, "\n".join(found.entry.series_uid for found in choice.taken)),
            tuple(contained(self.root, place) / name for place, name in choice.masks),
        )

    def fingerprints(self, chosen: Mapping[str, Mapping[str, Choice]]) -> dict[tuple[str, str], str]:
        """Return, per (subject, block), a hash of UIDs and file sizes of the chosen series and mask."""
        sizes = {
            folder: {file.path: file.size for file in index.files} for folder, index in self.indexes.items()
        }
        found = {}
        for subject, choices in chosen.items():
            for block, choice in choices.items():
                size = sizes[self.spec.images[block].dir]
                told = [
                    (taken.entry.series_uid, sorted(size[name] for name in taken.entry.files))
                    for taken in choice.taken
                ]
                if told:
                    uids = {found.entry.path: found.entry.sop_uid for found in choice.mask_looks}
                    drawn = [(uids.get(name, ""), sizes[folder][name]) for folder, name in choice.masks]
                    found[subject, block] = hashlib.sha256(repr((told, drawn)).encode()).hexdigest()
        return found

    def account(self, chosen: Mapping[str, Mapping[str, Choice]]) -> Account:
        """Divide the files on disk into used, not chosen, set aside and refused."""
        used = {
            file
            for choices in chosen.values()
            for block, choice in choices.items()
            for file in choice.files(self.spec.images[block].dir)
        }
        parts: Counter[str] = Counter({"used": 0, "not chosen": 0, "set aside": 0, "refused": 0})
        for folder, name, status in self._files():
            fate = "used" if (folder, name) in used else {"series": "not chosen"}.get(status, status)
            parts[fate.replace("_", " ")] += 1
        return Account("files", sum(1 for _ in self._files()), dict(parts))

    def _files(self) -> Iterable[tuple[str, str, str]]:
        """Every file that the join is asked about: folder, path, status."""
        if self.wanted is None:
            for folder, index in self.indexes.items():
                yield from ((folder, file.path, file.status) for file in index.files)
            return
        for folder, subjects in self._series.items():
            names = {name for s in self.wanted for entry in subjects.get(s, ()) for name in entry.files}
            yield from ((folder, name, "series") for name in sorted(names))

    def _of(self, subject: str, image: ImageSpec) -> list[SeriesEntry]:
        return self._series[image.dir].get(subject, [])

    def _look(
        self, subject: str, entry: SeriesEntry, image: ImageSpec, prediction: Moment | None, block: str = ""
    ) -> Look:
        if subject in self._ambiguous:
            return Look(entry, "several_issuers")
        # the study that defines the prediction time is itself usable
        index_study = bool(block) and block == self.spec.prediction_time.from_image
        same_day = index_study or self.spec.same_day.index_study == "known"
        return look(entry, image, prediction, same_day=same_day)

    def _group(self, folder: str, index: Index, crosswalk: Mapping[tuple[str, str], str] | None) -> None:
        groups: dict[str, list[SeriesEntry]] = defaultdict(list)
        issuers: dict[str, set[str]] = defaultdict(set)
        for entry in index.series:
            for patient_id in entry.patient_ids or (entry.patient_id,):
                subject = patient_id.strip()
                if crosswalk is not None:
                    either = crosswalk.get((entry.issuer, subject)) or crosswalk.get(("", subject))
                    subject = either or f"PatientID {subject} without a subject"
                elif entry.issuer:
                    issuers[subject].add(entry.issuer)
                groups[subject].append(entry)
        self._series[folder] = dict(groups)
        # one PatientID of two issuers may be two people; only a crosswalk can tell
        self._ambiguous |= {subject for subject, names in issuers.items() if len(names) > 1}


def candidates(chosen: Mapping[str, Mapping[str, Choice]], key: bytes) -> list[Candidate]:
    """Return every series and mask of the kept subjects, block by block, taken or with the reason why not."""
    return [
        candidate
        for subject, choices in chosen.items()
        for block, choice in choices.items()
        for candidate in _candidates(block, pseudonym(key, subject), choice, key)
    ]


def _candidates(block: str, subject: str, choice: Choice, key: bytes) -> Iterator[Candidate]:
    looked: list[tuple[str, str, Look | MaskLook, bool, int]] = [
        (block, found.entry.series_uid, found, found in choice.taken, len(found.entry.files))
        for found in choice.looks
    ]
    paths = {path for _, path in choice.masks}
    looked += [
        (f"{block}.mask", found.entry.sop_uid, found, found.entry.path in paths, 1)
        for found in choice.mask_looks
    ]
    for where, uid, found, taken, files in looked:
        why = "" if taken else found.reason or "another was chosen"
        yield Candidate(where, subject, pseudonym(key, uid), taken, why, found.offset_days, files)


def _scan(path: Path, cache: Path | None, progress: Progress | None) -> Index:
    from medmm.dicom.index import scan

    if cache is None:
        return scan(path, progress=progress)
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return scan(path, progress=progress)  # the cache saves time, no more
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return scan(path, cache=cache / f"{name}.index", progress=progress)
