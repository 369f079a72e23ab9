"""Joining a patient: from tables and a DICOM folder to one row per (subject, prediction time)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmm.cohort.flow import Flow
from medmm.cohort.spec import CohortSpec
from medmm.modality import Declaration
from medmm.sample import Patient

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One series of one kept subject, looked at for one image block.

    Attributes:
        series: its pseudonym.
        reason: why it was not chosen ("later", "undated", "not_eligible: modality", …); empty when chosen.
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
class Cohort:
    """What was known of every subject at the prediction time.

    Attributes:
        patients: sorted by ``subject_id``.
        declarations: per block, the inputs it offers: fields, results, or the image itself.
        flow: the accounting of subjects, files and results.
        excluded: per subject left out, the reason.
        series: every candidate series of every image block, chosen or not.
        digest: sha256 of the specification and of everything that entered.
    """

    spec: CohortSpec
    patients: Sequence[Patient]
    declarations: Mapping[str, Declaration]
    flow: Flow
    excluded: Mapping[str, str]
    series: Sequence[Candidate]
    digest: str


def link(
    spec: CohortSpec,
    root: Path,
    *,
    key: bytes,
    subjects: Sequence[str] | None = None,
    outcomes: bool = True,
    index_cache: Path | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Join a cohort by its keys, up to each subject's prediction time.

    Args:
        spec: the validated cohort.yaml.
        root: folder of the data.
        key: the site's key, for pseudonyms.
        subjects: only these; None for everybody.
        outcomes: whether outcome tables are read (they need not exist when scoring).
        index_cache: folder in which the DICOM index is kept between runs.
        progress: called with (done, total) files while a DICOM folder is scanned.

    Raises:
        ConfigError: if a column or a code has no role.
        DataError: if a table is missing, malformed or contradicts itself.
    """
    raise NotImplementedError
