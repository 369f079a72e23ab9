"""The third story: a score becomes a page that says what it rests on, with numbers that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medmm.bundle import load
from medmm.cohort.link import Cohort, link
from medmm.cohort.site import index_cache, site_key
from medmm.cohort.spec import data_root, load_spec
from medmm.cohort.split import assign, divide
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
    linked = _linked(cohort, root, subjects, progress, outcomes=False)
    if len(linked.patients) < len(set(subjects)):
        raise DataError(
            f"{len(set(subjects)) - len(linked.patients)} of the patients asked for are not in the cohort"
        )
    explainer = Explainer(load(bundle))
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
    linked = _linked(cohort, root, None, progress, outcomes=True)
    linked = assign(linked, divide(linked))
    explainer = Explainer(load(bundle))
    split = "held_out" if held_out else "folds"
    page = folder / f"{explainer.description.name}-{split}.html"
    write_page(render_cohort(cohort_page(explainer, linked, held_out=held_out, progress=progress)), page)
    return page


def _linked(
    cohort: Path,
    root: Path | None,
    subjects: Sequence[str] | None,
    progress: Progress | None,
    *,
    outcomes: bool,
) -> Cohort:
    spec = load_spec(cohort)
    scanning = None if progress is None else lambda done, total: progress("scanning DICOM", done, total)
    return link(
        spec,
        data_root(spec, root),
        key=site_key(),
        index_cache=index_cache(),
        subjects=subjects,
        outcomes=outcomes,
        progress=scanning,
    )
