"""One way in: cohort.yaml, the data root, this site's key and index become the linked cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medmm.cohort.link import Cohort, link
from medmm.cohort.site import index_cache, site_key
from medmm.cohort.spec import data_root, load_spec

Progress = Callable[[str, int, int], None]


def open_cohort(
    folder: Path,
    root: Path | None = None,
    *,
    subjects: Sequence[str] | None = None,
    outcomes: bool = True,
    progress: Progress | None = None,
) -> Cohort:
    """Read a cohort.yaml and link its data.

    Args:
        folder: with cohort.yaml, or the file.
        root: folder of the data, when neither cohort.yaml nor MEDMM_ROOT says.
        subjects: only these; None for everybody.
        outcomes: whether labels are read; a patient who comes to be scored has none.
        progress: called with (stage, done, total).

    Raises:
        ConfigError: if the declaration cannot mean what it says.
        DataError: if a table is missing, malformed or contradicts itself.
    """
    spec = load_spec(folder)
    return link(
        spec,
        data_root(spec, root),
        key=site_key(),
        subjects=subjects,
        outcomes=outcomes,
        index_cache=index_cache(),
        progress=None if progress is None else lambda done, total: progress("scanning DICOM", done, total),
    )
