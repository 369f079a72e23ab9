"""What several doors ask for: folders, the data's root, patients."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

Root = Annotated[
    Path | None, typer.Option(help="Folder of the data, when cohort.yaml does not say (or MEDMM_ROOT).")
]
CohortFolder = Annotated[Path, typer.Argument(help="Folder with cohort.yaml.", metavar="COHORT")]
CohortOption = Annotated[Path, typer.Option("--cohort", help="Folder with cohort.yaml.")]
Pipeline = Annotated[Path, typer.Argument(help="Folder with recipe.yaml.", metavar="PIPELINE")]
BundleFolder = Annotated[Path, typer.Argument(help="Folder of the bundle.", metavar="BUNDLE")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs and of the tracking store.")]
Resume = Annotated[Path | None, typer.Option(help="Folder of a run that was stopped, to go on with.")]
Splits = Annotated[Path | None, typer.Option(help="splits.json of `medmm cohort split` or of another run.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster (host:port), or local for all cores here; with the extra `cluster`."
    ),
]


def subjects_asked(given: list[str] | None) -> list[str] | None:
    """Return the ids asked for; from standard input they do not show in the process list."""
    if given is None:
        return None
    read = [line.strip() for line in sys.stdin if line.strip()] if "-" in given else []
    if "-" in given and not read:
        raise typer.BadParameter("--patient - reads ids from standard input, and there was none")
    return [subject for subject in given if subject != "-"] + read


def where(root: Path | None) -> str:
    """Return the options that a next command needs to find the same data."""
    return given(root=root)


def given(**options: object) -> str:
    """Return options as they are typed, a space before each; what is None was not given."""
    return "".join(f" --{name} {quote(str(value))}" for name, value in options.items() if value is not None)
