"""Drafting a cohort.yaml and a recipe.yaml from a folder: what is plain is written, the rest is asked.

A draft with open questions does not load. Every column that is undated, unclear or sounds like something
known only afterwards is `never` until a person says otherwise, and an outcome is never chosen silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medmm.cohort.declare import QUESTION
from medmm.cohort.draft.guess import parts, slug
from medmm.cohort.draft.images import image_blocks
from medmm.cohort.draft.lines import write_new
from medmm.cohort.draft.profile import survey
from medmm.cohort.draft.recipe import recipe_text
from medmm.cohort.draft.write import cohort_text
from medmm.errors import OutputError


@dataclass(frozen=True, slots=True)
class Draft:
    """What was drafted.

    Attributes:
        cohort: the cohort.yaml.
        recipe: the recipe.yaml, or None when none was asked for.
        subjects: different subject ids.
        imaged: PatientIDs of the DICOM folders, and how many of them are subjects.
        questions: the marked lines, each with its file and its number there.
    """

    cohort: Path
    recipe: Path | None
    id: str
    subjects: int
    imaged: tuple[int, int]
    questions: tuple[tuple[Path, int, str], ...]

    def lines(self) -> list[str]:
        """Return what a person reads at the end of `medmm init`."""
        series, matched = self.imaged
        match = f"; {self.id} = DICOM PatientID in {matched}/{series}" if series else "; no DICOM folder"
        if not self.id:
            match = f"; no column of a table names them{f' as {series} DICOM PatientIDs do' * bool(series)}"
        count = len(self.questions)
        need = f"{count} line{'s' if count != 1 else ''} marked ? need{'s' if count == 1 else ''} you"
        return [
            f"{self.subjects} subjects{match}; {need}",
            *(f"  {file.name}:{number}  {question}" for file, number, question in self.questions),
        ]


def draft(
    data_dir: Path,
    out: Path,
    *,
    pipeline: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    measuring: Callable[[int, int], None] | None = None,
) -> Draft:
    """Look at a folder of tables and DICOM files and draft how they are joined.

    Args:
        data_dir: holds the tables (CSV, Parquet) and the DICOM folders, directly inside.
        out: folder for cohort.yaml; an existing one is not overwritten.
        pipeline: folder for recipe.yaml, or None for no recipe.
        progress: called with (done, total) files while a DICOM folder is scanned.
        measuring: called with (done, total) series while some are looked at.

    Raises:
        DataError: if the folder holds no table.
        OutputError: if a file exists already or cannot be written.
    """
    cohort = out / "cohort.yaml"
    recipe = pipeline / "recipe.yaml" if pipeline else None
    for path in (cohort, recipe):
        if path is not None and path.exists():
            raise OutputError(f"{path} exists already; name another folder, or delete it first")
    found = survey(Path(data_dir).resolve(), progress=progress)
    known = parts(found)
    images = image_blocks(found, progress=measuring)
    texts = {cohort: cohort_text(found, known, images, slug(out.resolve().name))}
    if recipe is not None and pipeline is not None:
        relative = Path(os.path.relpath(out.resolve(), pipeline.resolve())).as_posix()
        texts[recipe] = recipe_text(found, known, images, pipeline.resolve().name, relative)
    try:
        for path, text in texts.items():
            write_new(path, text)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); name another folder") from error
    return Draft(cohort, recipe, found.id, len(found.subjects), found.imaged, _questions(texts))


def _questions(texts: Mapping[Path, str]) -> tuple[tuple[Path, int, str], ...]:
    return tuple(
        (path, number, match.group(1))
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := QUESTION.search(line))
    )
