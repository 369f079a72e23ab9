"""The third story: a score becomes a page that says what it rests on, with numbers that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medmm.bundle import load
from medmm.cohort.access import open_cohort
from medmm.errors import DataError
from medmm.explain.cohort import cohort_page
from medmm.explain.explainer import Explainer
from medmm.explain.patient import patient_page
from medmm.report.cohort import render_cohort
from medmm.report.page import write_page
from medmm.report.patient import render_patient

Progress = Callable[[str, int, int], None]


def explain_patients(
    bundle: Path,
    cohort: Path,
    subjects: Sequence[str],
    folder: Path,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write one page per subject, named by pseudonym, and return their places.

    Raises:
        BundleError: if the bundle is damaged or altered.
        DataError: if a subject is in none of the cohort's tables.
        ExplanationError: if an explanation would not add up to its score.
    """
    linked = open_cohort(cohort, root, subjects=subjects, outcomes=False, progress=progress)
    missing = set(subjects) - {patient.subject_id for patient in linked.patients}
    if missing:
        reasons = sorted({linked.excluded.get(subject, "not in the cohort") for subject in missing})
        raise DataError(
            f"{len(missing)} of {len(set(subjects))} patients have no page: {', '.join(reasons)}; "
            "`medmm score` gives each its row and reason"
        )
    explainer = Explainer(load(bundle), linked.declarations)
    pages = []
    for done, patient in enumerate(linked.patients):
        page = folder / f"{patient.pseudonym}.html"
        write_page(render_patient(patient_page(explainer, patient)), page)
        pages.append(page)
        if progress:
            progress("explaining", done + 1, len(linked.patients))
    return pages


def explain_cohort(
    bundle: Path,
    cohort: Path,
    folder: Path,
    *,
    held_out: bool,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one page about the held-out patients, or about the training patients out-of-fold."""
    linked = open_cohort(cohort, root, progress=progress)
    explainer = Explainer(load(bundle), linked.declarations)
    split = "held_out" if held_out else "folds"
    page = folder / f"{explainer.description.name}-{split}.html"
    write_page(render_cohort(cohort_page(explainer, linked, held_out=held_out, progress=progress)), page)
    return page
