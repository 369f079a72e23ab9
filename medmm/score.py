"""The second story: a bundle and a cohort become one row per patient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmm.bundle import Bundle, load
from medmm.cluster import mapped
from medmm.cohort.access import open_cohort
from medmm.errors import BundleError, TooManyRefused
from medmm.modality import Declaration
from medmm.sample import Patient, Score
from medmm.scorer import Scorer

Progress = Callable[[str, int, int], None]

LOST = "resource_limit"
"""Why a patient is refused whose scoring ended every process that tried it."""


@dataclass
class Scoring:
    """What scores one patient after another, here or in a worker that has just been sent it.

    Attributes:
        bundle: its folder.
        sha256: of the bundle as it was verified here.
        declarations: what the cohort declares of its blocks.
        trained_on: pseudonyms of the training patients, where they are known here.
    """

    bundle: Path
    sha256: str
    declarations: Mapping[str, Declaration]
    trained_on: frozenset[str] | None
    _scorer: Scorer | None = field(default=None, repr=False)

    def __call__(self, patient: Patient) -> Score:
        """Score one patient; the first call opens the networks."""
        if self._scorer is None:
            loaded = load(self.bundle)
            if loaded.sha256 != self.sha256:
                raise BundleError(
                    f"{self.bundle} is another bundle on a machine of the cluster; share its folder"
                )
            self._scorer = Scorer(loaded, self.declarations)
            # A machine with a site key of its own would not know these pseudonyms.
            self._scorer.trained_on = self.trained_on
        return self._scorer.score(patient)


def score(
    bundle: Path,
    cohort: Path,
    *,
    root: Path | None = None,
    subjects: Sequence[str] | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """Score every patient of a cohort, or the subjects named, in the order of their ids.

    Outcomes and splits are not read: a patient who comes to be scored has none. Whoever the cohort leaves
    out, or does not know, is refused with the reason.

    Args:
        bundle: its folder.
        cohort: folder with cohort.yaml.
        root: folder of the data, when cohort.yaml does not say.
        subjects: who is scored; everybody by default.
        cluster: where (:func:`medmm.cluster.mapped`); the scores are the same wherever it is.
        progress: called with (stage, done, total).

    Raises:
        BundleError: if the bundle is damaged or altered.
        ConfigError: if the cohort declares a field otherwise than the bundle was trained on.
    """
    loaded = load(bundle)
    linked = open_cohort(cohort, root, subjects=subjects, outcomes=False, progress=progress)
    scorer = Scorer(
        loaded, linked.declarations
    )  # whatever is wrong with them is said before any worker starts
    work = Scoring(
        bundle.resolve(),
        loaded.sha256,
        linked.declarations,
        scorer.trained_on,
        scorer if cluster is None else None,
    )
    scores = mapped(
        work,
        linked.patients,
        lost=lambda patient: _left_out(loaded, patient.subject_id, LOST),
        address=cluster,
        progress=progress and (lambda done, total: progress("scoring", done, total)),
    )
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
