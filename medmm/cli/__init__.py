"""The doors: parse, call, print, exit code. Every heavy import waits inside the command that needs it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from medmm.cli.cohort import cohort_app
from medmm.cli.console import err, escaped
from medmm.cli.dicom import dicom_app
from medmm.cli.stories import app
from medmm.errors import MedmmError

app.add_typer(cohort_app, name="cohort")
app.add_typer(dicom_app, name="dicom")

TRACE = "--trace"


def main() -> None:
    """Run the command line; a refusal is one clear line and its own exit code."""
    terminated: list[int] = []

    def terminate(number: int, frame: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt  # a scheduler's stop ends as a Ctrl-C does, but for its exit code

    signal.signal(signal.SIGTERM, terminate)
    try:
        app()
    except SystemExit:
        if terminated:
            sys.exit(128 + signal.SIGTERM)
        raise
    except MedmmError as error:
        err.print(f"[bold red]medmm:[/] {escaped(str(error))}")
        sys.exit(error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        if TRACE in sys.argv:
            raise
        # Without the path: a folder may be named by a patient's id.
        err.print(f"[bold red]medmm:[/] the system refused: {error.strerror}; `medmm --trace …` shows where")
        sys.exit(8)
    except Exception as error:
        # A message may quote a patient's data, so it is shown to whoever asks for it only.
        if TRACE in sys.argv:
            raise
        kind = type(error).__name__
        err.print(f"[bold red]medmm:[/] unexpected {kind}, a fault of medmm; `medmm --trace …` shows where")
        sys.exit(1)


@app.callback()
def doors(
    trace: Annotated[bool, typer.Option(TRACE, help="Show the whole trace of an unexpected error.")] = False,
) -> None:
    """Multimodal medical diagnosis: train on a cohort, score patients, explain scores."""
