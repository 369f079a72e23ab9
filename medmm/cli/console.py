"""What a door says: its two consoles, progress bars, the next useful command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def progress(*, shown: bool = True) -> Iterator[Any]:
    """Yield ``report(stage, done, total)``, drawn as bars; ``report(stage)`` binds a stage."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal)) as bars:

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


def say_next(*commands: str) -> None:
    """Print the next useful command, on standard error."""
    for index, command in enumerate(commands):
        err.print(f"{'next' if index == 0 else '    '}     {escaped(command)}")


def escaped(text: str) -> str:
    """Return text that rich prints as it stands."""
    return text.replace("[", r"\[")
