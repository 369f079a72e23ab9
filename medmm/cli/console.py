"""What a door says: its two consoles, its progress, how to go on, the next useful command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

LINE_SECONDS = 60.0
"""Time between two lines about a stage that goes on, where no terminal shows a bar."""
SHORT_SECONDS = 5.0
"""A stage that takes less is worth no line."""

Report = Callable[[str, int, int], None]


@contextmanager
def progress(*, shown: bool = True) -> Iterator[Any]:
    """Yield ``report(stage, done, total)``; ``report(stage)`` binds a stage.

    On a terminal it draws bars that vanish at the end; elsewhere (cron, nohup, a log) it prints plain lines.
    """
    with _shown(shown=shown) as draw:

        def report(stage: str, done: int | None = None, total: int = 0) -> Any:
            if done is None:
                return lambda done, total: draw(stage, done, total)
            return draw(stage, done, total)

        try:
            yield report
        except KeyboardInterrupt:
            err.print("medmm: interrupted; every file that was begun is whole or gone")
            raise  # typer exits with 130


@contextmanager
def _shown(*, shown: bool) -> Iterator[Report]:
    if not shown:
        yield lambda stage, done, total: None
    # A terminal is asked itself: FORCE_COLOR makes rich take a log for one.
    elif err.is_terminal and err.file.isatty() and not err.is_dumb_terminal:
        with _bars() as draw:
            yield draw
    else:
        lines = Lines(lambda line: err.print(line, markup=False))
        try:
            yield lines.report
        finally:
            lines.end()


@contextmanager
def _bars() -> Iterator[Report]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=err, transient=True) as bars:

        def draw(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield draw


class Lines:
    """Progress as plain lines: one when a stage is done, and one every :data:`LINE_SECONDS` until then.

    Args:
        say: prints a line.
        clock: seconds that only grow.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._say, self._clock = say, clock
        self._last = clock()
        self._began: dict[str, tuple[float, int]] = {}
        self._done: dict[str, int] = {}
        self._ended: set[str] = set()
        self._waiting: dict[str, str] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        """Say it, or keep it for the end."""
        now = self._clock()
        if done < self._done.get(stage, done + 1):  # its first word, or it begins again for another split
            self._began[stage] = (now, done)
        self._done[stage] = done
        spent, due = now - self._began[stage][0], now - self._last >= LINE_SECONDS
        if total <= 0 or not (due or spent >= SHORT_SECONDS):
            return
        self._waiting[stage] = f"progress {stage}: {done} of {total}{self._time(stage, spent, total)}"
        # Of a stage that begins again and again only the first end is told at once.
        ended = done >= total and stage not in self._ended
        if due or ended:
            self._ended.update([stage] if ended else [])
            self._last = now
            self._say(self._waiting.pop(stage))

    def end(self) -> None:
        """Say where every stage stood, of which more happened since it was told of."""
        for line in self._waiting.values():
            self._say(line)
        self._waiting.clear()

    def _time(self, stage: str, spent: float, total: int) -> str:
        """Return the minutes of a stage, and how many its pace leaves; "" in its first one."""
        if spent < LINE_SECONDS:
            return ""
        done, gone = self._done[stage], self._done[stage] - self._began[stage][1]
        left = f", about {_minutes(spent * (total - done) / gone)} left" if gone and done < total else ""
        return f", {_minutes(spent)}{left}"


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Say, when the block is interrupted, which command goes on where it stopped."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"\nmedmm: go on with: {command}", markup=False)
        raise


def say_next(*commands: str) -> None:
    """Print the next useful command, on standard error."""
    for index, command in enumerate(commands):
        err.print(f"{'next' if index == 0 else '    '}     {escaped(command)}")


def escaped(text: str) -> str:
    """Return text that rich prints as it stands."""
    return text.replace("[", r"\[")
