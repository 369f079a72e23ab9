"""Who trains, who is held out, and in which fold: whole subjects, stratified, decided by (seed, id).

Subjects are sorted by stratum and, inside it, by a hash of seed and id. Every k-th one is held out and the
rest are dealt to the folds in turn, so each stratum is divided as evenly as it can be, whatever the order of
rows, files or processes. Families, whole sites and time are :mod:`medmm.cohort.wholes`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmm.cohort.link import Cohort
from medmm.cohort.outcomes import counted
from medmm.cohort.wholes import TRAIN, Member, by_group, by_site, by_subject, by_time, by_whole, nested
from medmm.errors import DataError, OutputError
from medmm.private import write_private
from medmm.sample import Patient, SeriesSource

REPEAT_SEED = 1_000_003
"""Between the seeds of repeated divisions, so that those of neighbouring seeds differ."""


@dataclass(frozen=True, slots=True)
class Splits:
    """An assignment of every subject of a cohort.

    Attributes:
        seed: the seed of the cohort's specification.
        folds: number of folds of the training subjects.
        of: per subject, its split and its fold (-1 when held out).
        inner: per training subject, its inner fold inside the training part of each outer fold, -1 for the
            outer fold that it is itself in; empty where the division is not nested.
    """

    seed: int
    folds: int
    of: Mapping[str, tuple[str, int]]
    inner: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Sha256 of the assignment."""
        placed = sorted((s, *place, *self.inner.get(s, ())) for s, place in self.of.items())
        text = json.dumps([self.seed, self.folds, placed])
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the assignment with its digest; it holds real ids, so the file's mode is 0600.

        Raises:
            OutputError: if the folder cannot be written.
        """
        check_place(path)
        body = {
            "schema_version": 2,
            "digest": self.digest,
            "seed": self.seed,
            "folds": self.folds,
            "subjects": {
                subject: [*place, *self.inner.get(subject, ())] for subject, place in sorted(self.of.items())
            },
        }
        write_private(json.dumps(body).encode(), path)


def check_place(path: Path) -> None:
    """Refuse a place where no file of splits could be written, before a cohort is opened.

    Raises:
        OutputError: if it is a folder, its folder is not there, or a file is: runs may rest on that division.
    """
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder; name a file")
    if path.exists():
        raise OutputError(f"{path} is there already and stays as it is; name another file, or delete it")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no such folder; make it, or name another")


def load_splits(path: Path) -> Splits:
    """Read an assignment back.

    Raises:
        DataError: if the file is missing, no such assignment, or its digest does not fit.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        of = {subject: (str(row[0]), int(row[1])) for subject, row in body["subjects"].items()}
        inner = {s: tuple(map(int, row[2:])) for s, row in body["subjects"].items() if len(row) > 2}
        splits = Splits(int(body["seed"]), int(body["folds"]), of, inner)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = (
            error.strerror if isinstance(error, OSError) else "it does not say who is in which split and fold"
        )
        raise DataError(
            f"{path} is no file of splits ({why}); write one with `medmm cohort split COHORT --out FILE`"
        ) from None
    if body.get("digest") != splits.digest:
        raise DataError(f"{path} was changed after it was written; divide the cohort again")
    return splits


def divide(cohort: Cohort) -> Splits:
    """Divide a cohort as its specification says.

    Raises:
        DataError: if an outcome has one class only, a class has fewer subjects than folds, or there are too
            few sites, groups or different times to be kept whole.
    """
    settings = cohort.spec.splits
    if settings.file:
        raise DataError(
            f"cohort {cohort.spec.name} is divided by a file (splits.file), not by a draw; use that file"
        )
    _check_classes(cohort)
    members = [
        Member(p.subject_id, _stratum(cohort, p), whole(cohort, p), cohort.days.get(p.subject_id, 0.0))
        for p in cohort.patients
    ]
    if settings.by == "site":
        of = by_site(members, settings)
    elif settings.by == "time":
        of = by_time(members, settings)
    elif settings.groups:
        of = by_group(members, settings)
    else:
        of = by_subject(members, settings)
    training = [member for member in members if of[member.subject][0] == TRAIN]
    inner = nested(training, of, settings) if settings.inner_folds else {}
    return Splits(settings.seed, settings.folds, of, inner)


def redrawn(cohort: Cohort, splits: Splits, repeats: int) -> list[dict[str, int]]:
    """Return further divisions of the same training subjects into folds: per repeat, the fold of each.

    What must not be divided (a site, a group) is not divided here either. Few sites allow few divisions; one
    that was had already is left out, so the list may be shorter than asked.

    Args:
        cohort: whose specification says how.
        splits: the first division; who is held out stays held out.
        repeats: divisions beside the first.
    """
    settings = cohort.spec.splits.model_copy(update={"held_out": 0.0, "folds": splits.folds})
    training = [
        Member(p.subject_id, _stratum(cohort, p), whole(cohort, p), cohort.days.get(p.subject_id, 0.0))
        for p in cohort.patients
        if splits.of[p.subject_id][0] == TRAIN
    ]
    first = {member.subject: splits.of[member.subject][1] for member in training}
    found = [first]
    for repeat in range(repeats):
        anew = settings.model_copy(update={"seed": settings.seed + REPEAT_SEED * (repeat + 1)})
        if len({member.whole for member in training}) < len(training):
            places = by_whole(training, anew)
        else:
            places = {subject: fold for subject, (_, fold) in by_subject(training, anew).items()}
        if all(_divides(places) != _divides(earlier) for earlier in found):
            found.append(places)
    return found[1:]


def nested_in(cohort: Cohort, splits: Splits, folds: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the inner folds inside other outer folds of the same subjects, as many as ``splits`` has.

    Args:
        folds: per training subject, the outer fold.
    """
    count = 1 + max(max(places) for places in splits.inner.values())
    settings = cohort.spec.splits.model_copy(update={"folds": splits.folds, "inner_folds": count})
    members = [
        Member(p.subject_id, _stratum(cohort, p), whole(cohort, p), cohort.days.get(p.subject_id, 0.0))
        for p in cohort.patients
        if p.subject_id in folds
    ]
    return nested(members, {subject: (TRAIN, fold) for subject, fold in folds.items()}, settings)


def _divides(places: Mapping[str, int]) -> frozenset[frozenset[str]]:
    """Return who is together with whom, whatever the folds are called."""
    folds: dict[int, set[str]] = {}
    for subject, fold in places.items():
        folds.setdefault(fold, set()).add(subject)
    return frozenset(frozenset(members) for members in folds.values())


def check_folds(cohort: Cohort, splits: Splits, outcome: str) -> None:
    """Refuse folds that hold one class only, before anything is read or fitted.

    Raises:
        DataError: in one line, with what to do.
    """
    by = cohort.spec.splits.by
    labels = {p.subject_id: p.targets[outcome] for p in cohort.patients if outcome in p.targets}
    sizes: dict[int, Counter[float]] = {fold: Counter() for fold in range(splits.folds)}
    for subject, (split, fold) in splits.of.items():
        if split == TRAIN and subject in labels:
            sizes[fold][labels[subject]] += 1
    total = sum(sizes.values(), Counter[float]())
    rarer = min(total.values()) if len(total) > 1 else 0
    if rarer < splits.folds:
        raise DataError(
            f"outcome {outcome!r}: {rarer} training subjects of the rarer class for {splits.folds} folds;"
            f" lower splits.folds{f' to {rarer} or fewer' if rarer > 1 else ', or find more'}"
        )
    thin = [fold + 1 for fold, counts in sizes.items() if len(counts) < 2]
    if thin:
        kept = " A site with one class must share a fold:" if by == "site" else ""
        advice = (
            "lower splits.folds"
            if by == "site"
            else f"add {outcome} to splits.stratify, or lower splits.folds"
        )
        raise DataError(
            f"outcome {outcome!r}: fold {', '.join(map(str, thin))} has one class only, so nothing can be"
            f" ranked there.{kept or ' To mend it:'} {advice}"
        )


def whole(cohort: Cohort, patient: Patient) -> str:
    """Return what a patient must not be divided from: the site, the group, or the subject alone."""
    settings = cohort.spec.splits
    if settings.by == "site":
        site = patient.subgroups.get(settings.site or "", "")
        return site or "no site recorded"
    group = cohort.groups.get(patient.subject_id, "")
    return f"group {group}" if group else f"subject {patient.subject_id}"


def decide(cohort: Cohort, *, folder: Path, file: Path | None = None) -> tuple[Cohort, Splits]:
    """Return how a cohort is divided, by a file where one is given, else by a draw; and the cohort itself.

    A cohort that a file divides carries the division's digest in its specification, so that it is another
    cohort than the same one divided otherwise.

    Args:
        cohort: linked, with outcomes.
        folder: of cohort.yaml, from which `splits.file` is taken.
        file: splits.json in place of what cohort.yaml says.

    Raises:
        DataError: as :func:`load_splits`, or as :func:`divide`.
    """
    declared = cohort.spec.splits.file
    if file is None and declared is not None:
        file = (folder if folder.is_dir() else folder.parent) / declared
    if file is None:
        return cohort, divide(cohort)
    splits = load_splits(file)
    settings = cohort.spec.splits.model_copy(update={"file": f"sha256:{splits.digest}"})
    return replace(cohort, spec=cohort.spec.model_copy(update={"splits": settings})), splits


def assign(cohort: Cohort, splits: Splits) -> Cohort:
    """Return the cohort with every patient's split and fold.

    Raises:
        DataError: if the splits are of other subjects, or one DICOM file would be on both sides.
    """
    subjects = {patient.subject_id for patient in cohort.patients}
    if subjects != set(splits.of):
        raise DataError(
            f"the splits are of another cohort: {len(subjects - set(splits.of))} subjects have none and"
            f" {len(set(splits.of) - subjects)} are not in it; divide the cohort again"
        )
    placed = []
    for patient in cohort.patients:
        split, fold = splits.of[patient.subject_id]
        placed.append(replace(patient, split=split, fold=fold))
    _check_disjoint(placed)
    _check_groups(cohort, splits)
    return replace(cohort, patients=tuple(placed))


def lines(cohort: Cohort, splits: Splits) -> list[str]:
    """Return a division in words: how many are where, and how many of them have each outcome."""
    parts = sorted(set(splits.of.values()), key=lambda place: (place[0] != TRAIN, place[1]))
    told = []
    for place in parts:
        here = [p for p in cohort.patients if splits.of[p.subject_id] == place]
        name = f"fold {place[1] + 1}" if place[0] == TRAIN else "held out"
        counts = ", ".join(
            f"{int(sum(p.targets.get(outcome, 0.0) for p in here))} {outcome}"
            if spec.kind == "binary"
            else f"{outcome}: {counted(spec, [p.targets[outcome] for p in here if outcome in p.targets])}"
            for outcome, spec in cohort.spec.outcomes.items()
        )
        told.append(f"{name:<8} {len(here)} subjects" + (f", {counts}" if counts else ""))
    return [*told, f"digest   {splits.digest}"]


def _check_classes(cohort: Cohort) -> None:
    for name, spec in cohort.spec.outcomes.items():
        values = [p.targets[name] for p in cohort.patients if name in p.targets]
        counts = Counter(float(value > 0) if spec.kind == "survival" else value for value in values)
        if spec.kind not in ("binary", "survival", "regression"):
            _check_every_class(name, spec.names, counts)
        if spec.kind == "survival" and set(counts) == {1.0}:
            continue  # nobody censored
        if len(counts) < 2:
            found = "no labels" if not counts else f"{sum(counts.values())} labels of one class"
            raise DataError(
                f"outcome {name!r}: {found}; a model needs both, so check `positive` and who is in the cohort"
            )
        if name in cohort.spec.splits.stratify and min(counts.values()) < cohort.spec.splits.folds:
            raise DataError(
                f"outcome {name!r}: the rarer class has {min(counts.values())} subjects for"
                f" {cohort.spec.splits.folds} folds; lower splits.folds"
            )


def _check_every_class(name: str, classes: Sequence[str], counts: Mapping[float, int]) -> None:
    for place, word in enumerate(classes):
        if not counts.get(float(place)):
            raise DataError(
                f"outcome {name!r}: nobody is {word!r}; a model needs every class, so check `classes`, or"
                " leave it out"
            )


def _stratum(cohort: Cohort, patient: Patient) -> tuple[str, ...]:
    words = []
    for word in cohort.spec.splits.stratify:
        if word in cohort.spec.outcomes:
            label = patient.targets.get(word)
            if label is not None and cohort.spec.outcomes[word].kind == "survival":
                label = float(label > 0)
            words.append("" if label is None else f"{label}")
        elif word in cohort.spec.images:
            words.append("present" if isinstance(patient.sources[word], SeriesSource) else "absent")
        else:
            words.append(patient.subgroups.get(word, ""))
    return tuple(words)


def _check_groups(cohort: Cohort, splits: Splits) -> None:
    """A file of splits from elsewhere may not know of the groups that this cohort declares."""
    places: dict[str, tuple[str, int]] = {}
    for subject, group in cohort.groups.items():
        if group and places.setdefault(group, splits.of[subject]) != splits.of[subject]:
            raise DataError(
                f"the splits divide a group of splits.groups ({cohort.spec.splits.groups}); divide the cohort"
                " again"
            )


def _check_disjoint(patients: list[Patient]) -> None:
    owner: dict[Path, tuple[str, int]] = {}
    for patient in patients:
        for source in patient.sources.values():
            for file in source.files if isinstance(source, SeriesSource) else ():
                place = (patient.split, patient.fold)
                if owner.setdefault(file, place) != place:
                    raise DataError(
                        "one DICOM file belongs to subjects of two splits or folds; repair the crosswalk"
                    )
