"""The second story: a bundle and a cohort become one row per patient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from medmm.bundle import Bundle, load
from medmm.cohort.access import open_cohort
from medmm.errors import TooManyRefused
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

    Outcomes and splits are not read: a patient who comes to be scored has none. Whoever the cohort leaves
    out, or does not know, is refused with the reason.

    Raises:
        BundleError: if the bundle is damaged or altered.
        ConfigError: if the cohort declares a field otherwise than the bundle was trained on.
    """
    loaded = load(bundle)
    linked = open_cohort(cohort, root, subjects=subjects, outcomes=False, progress=progress)
    scorer = Scorer(loaded, linked.declarations)
    scores = []
    for done, patient in enumerate(linked.patients):
        scores.append(scorer.score(patient))
        if progress:
            progress("scoring", done + 1, len(linked.patients))
    scored = {row.subject_id for row in scores}
    asked = linked.excluded if subjects is None else subjects
    left_out = {name: linked.excluded.get(name, "not_in_cohort") for name in asked if name not in scored}
    scores += [_left_out(loaded, name, reason) for name, reason in left_out.items()]
    return sorted(scores, key=lambda row: row.subject_id)


def _left_out(bundle: Bundle, subject: str, reason: str) -> Score:
    return Score(
        subject_id=subject,
        status="refused",
        reason=reason,
        outcomes={},
        modalities=dict.fromkeys(bundle.description.modalities, "not_observed"),
        bundle_sha256=bundle.sha256,
    )


def check_refused(scores: Iterable[Score], max_refused: int) -> None:
    """Raise if more patients were refused than the caller allows; the rows have been written by then.

    Raises:
        TooManyRefused: naming the reasons and how often each stands.
    """
    reasons = [score.reason for score in scores if score.status == "refused"]
    if len(reasons) > max_refused:
        counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
        raise TooManyRefused(f"{len(reasons)} patients refused, {max_refused} allowed: {counts}")
