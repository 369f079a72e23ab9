"""What the doors share: consoles, common options, progress bars, the next useful command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Root = Annotated[
    Path | None, typer.Option(help="Folder of the data, when cohort.yaml does not say (or MEDMM_ROOT).")
]
CohortFolder = Annotated[Path, typer.Argument(help="Folder with cohort.yaml.", metavar="COHORT")]
CohortOption = Annotated[Path, typer.Option("--cohort", help="Folder with cohort.yaml.")]
Pipeline = Annotated[Path, typer.Argument(help="Folder with recipe.yaml.", metavar="PIPELINE")]
BundleFolder = Annotated[Path, typer.Argument(help="Folder of the bundle.", metavar="BUNDLE")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs and of the tracking store.")]


@contextmanager
def progress() -> Iterator[Any]:
    """Yield ``report(stage, done, total)``, drawn as bars; ``report(stage)`` binds a stage."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:

        def report(stage: str, done: int | None = None, total: int | None = None) -> Any:
            if done is None:
                return lambda done, total: report(stage, done, total)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
            return None

        try:
            yield report
        except KeyboardInterrupt:
            bars.stop()
            err.print("medmm: interrupted; every file that was begun is whole or gone")
            raise  # typer exits with 130


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
    return f" --root {quote(str(root))}" if root else ""


def say_next(*commands: str) -> None:
    """Print the next useful command, on standard error."""
    for index, command in enumerate(commands):
        err.print(f"{'next' if index == 0 else '    '}     {escaped(command)}")


def escaped(text: str) -> str:
    """Return text that rich prints as it stands."""
    return text.replace("[", r"\[")
