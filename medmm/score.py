"""The second story: a bundle and a cohort become one row per patient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from medmm.bundle import load
from medmm.cohort.link import link
from medmm.cohort.site import index_cache, site_key
from medmm.cohort.spec import data_root, load_spec
from medmm.errors import DataError, TooManyRefused
from medmm.sample import Score
from medmm.scorer import Scorer

Progress = Callable[[str, int, int], None]


def score(
    bundle: Path,
    cohort: Path,
    *,
    root: Path | None = None,
    subjects: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """Score every patient of a cohort, or the subjects named, in the order of their ids.

    Outcomes and splits are not read: a patient who comes to be scored has none.

    Raises:
        BundleError: if the bundle is damaged or altered.
        DataError: if a subject named is in none of the cohort's tables.
    """
    scorer = Scorer(load(bundle))
    spec = load_spec(cohort)
    linked = link(
        spec,
        data_root(spec, root),
        key=site_key(),
        index_cache=index_cache(),
        subjects=subjects,
        outcomes=False,
        progress=(lambda done, total: progress("scanning DICOM", done, total)) if progress else None,
    )
    patients = linked.patients
    if subjects is not None and len(patients) < len(set(subjects)):
        missing = len(set(subjects)) - len(patients)
        raise DataError(
            f"{missing} of {len(set(subjects))} subjects asked for are not in cohort {spec.name}; "
            "`medmm cohort check` lists who was left out, and why"
        )
    scores = []
    for done, patient in enumerate(patients):
        scores.append(scorer.score(patient))
        if progress:
            progress("scoring", done + 1, len(patients))
    return scores


def check_refused(scores: Iterable[Score], max_refused: int) -> None:
    """Raise if more patients were refused than the caller allows; the rows have been written by then.

    Raises:
        TooManyRefused: naming the reasons and how often each stands.
    """
    reasons = [score.reason for score in scores if score.status == "refused"]
    if len(reasons) > max_refused:
        counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
        raise TooManyRefused(f"{len(reasons)} patients refused, {max_refused} allowed: {counts}")
