"""The doors: parse, call, print, exit code. Every heavy import waits inside the command that needs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from medmm.errors import MedmmError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multimodal medical diagnosis: train on a cohort, score patients, explain scores.",
    epilog="First steps: medmm demo · your own data: medmm init DATA --out cohorts/x",
)
cohort_app = typer.Typer(no_args_is_help=True, help="Who is in, and what was known when.")
app.add_typer(cohort_app, name="cohort")

TRACE = "--trace"

dicom_app = typer.Typer(no_args_is_help=True, help="What is in a DICOM folder.")
app.add_typer(dicom_app, name="dicom")

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


def main() -> None:
    """Run the command line; a refusal is one clear line and its own exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    try:
        app()
    except MedmmError as error:
        err.print(f"[bold red]medmm:[/] {_escaped(str(error))}")
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


@cohort_app.command(epilog="Example: medmm cohort synthesize /tmp/synthetic --patients 240")
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where to write the cohort.", metavar="DIR")],
    patients: Annotated[int, typer.Option(min=40, help="How many.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Write the embedded synthetic cohort, with the planted truth beside it."""
    from medmm.cohort.synthetic import synthesize as write

    with _progress() as bars:
        write(folder, patients=patients, seed=seed, progress=bars("writing patients"))
    out.print(f"cohort   {folder}/cohort.yaml\ntruth    {folder}/truth.json")
    _next(f"medmm cohort check {folder} --root {folder}")


@cohort_app.command(epilog="Example: medmm cohort check cohorts/picai_psa --root DATA/picai_psa")
def check(cohort: CohortFolder, root: Root = None) -> None:
    """Join the cohort and print who is in, what is missing and what looks wrong."""
    from medmm.cohort.check import check as inspect
    from medmm.cohort.link import link
    from medmm.cohort.site import index_cache, site_key
    from medmm.cohort.spec import data_root, load_spec

    spec = load_spec(cohort)
    with _progress() as bars:
        folder = data_root(spec, root)
        linked = link(
            spec,
            folder,
            key=site_key(),
            index_cache=index_cache(),
            progress=bars("scanning DICOM"),
        )
    for line in inspect(linked, root=folder).lines():
        out.print(line, markup=False)
    _next("medmm train pipelines/… --dry-run")


DicomFolder = Annotated[Path, typer.Argument(help="Folder with DICOM files.", metavar="DIR")]


@dicom_app.command("index", epilog="Example: medmm dicom index DATA/dicom")
def dicom_index(folder: DicomFolder) -> None:
    """List every series with status, reason and geometry, and account for every file, from the headers."""
    from medmm.cohort.site import site_key
    from medmm.dicom import scan
    from medmm.dicom.inspect import file_lines, outline, table_lines

    with _progress() as bars:
        index = scan(folder, progress=bars("scanning DICOM"))
        lines = table_lines(outline(index, site_key(), progress=bars("planning series")))
    for line in [*lines, *file_lines(index)]:
        out.print(line, markup=False)
    _next(f"medmm dicom inspect {folder}")


@dicom_app.command("inspect", epilog="Example: medmm dicom inspect DATA/dicom --out sheet.png")
def dicom_inspect(
    folder: DicomFolder,
    sheet: Annotated[Path, typer.Option("--out", help="PNG of the middle slices.")] = Path("sheet.png"),
) -> None:
    """Load every series, list what each becomes, and draw its middle slices."""
    from medmm.cohort.site import site_key
    from medmm.dicom import scan
    from medmm.dicom.inspect import inspect, table_lines
    from medmm.report.images import Tile, contact_sheet

    with _progress() as bars:
        index = scan(folder, progress=bars("scanning DICOM"))
        found = list(inspect(index, site_key(), progress=bars("loading series")))
    for line in table_lines(entry.row for entry in found):
        out.print(line, markup=False)
    pictures = [entry.picture for entry in found if entry.picture]
    tiles = [Tile(picture.array[None], "intensity", picture.caption, picture.axes) for picture in pictures]
    sheet.write_bytes(contact_sheet(tiles))
    _next(f"look at {sheet}")


@app.command(epilog="Example: medmm init DATA --out cohorts/mine")
def init(
    data: Annotated[Path, typer.Argument(help="Folder with tables and DICOM files.", metavar="DATA")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the drafted cohort.yaml.")],
    pipeline: Annotated[Path | None, typer.Option(help="Folder for the drafted recipe.yaml.")] = None,
) -> None:
    """Draft cohort.yaml and recipe.yaml; whatever a person must decide becomes a marked question."""
    from medmm.cohort.draft import draft

    with _progress() as bars:
        drafted = draft(
            data,
            folder,
            pipeline=pipeline or Path("pipelines") / folder.name,
            progress=bars("scanning DICOM"),
        )
    for line in drafted.lines():
        out.print(line, markup=False)
    _next(
        f"answer the lines marked `# ?` in {folder}/cohort.yaml", f"medmm cohort check {folder} --root {data}"
    )


@app.command(
    epilog="Examples: medmm train PIPELINE --root DATA --dry-run · medmm train PIPELINE --resume RUN"
)
def train(
    pipeline: Pipeline,
    root: Root = None,
    runs: Runs = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="Take up a run that was stopped.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Flow, shapes, time, memory, contact sheet; no fitting.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The whole path on a few patients, in about a minute.")
    ] = False,
) -> None:
    """Fit, judge, seal and track a model, and say whether the image earns its place."""
    from medmm import train as story
    from medmm.tracking import store

    with _progress() as bars:
        planned = story.plan(pipeline, root=root, smoke=smoke, progress=bars)
        if dry_run:
            lines = story.rehearse(planned, runs, progress=bars)
        else:
            run = story.open_run(planned, runs, resume)
            try:
                trained = story.train(planned, run, register=not smoke, progress=bars)
            except KeyboardInterrupt:
                options = "".join([f" --root {root}" if root else "", " --smoke" if smoke else ""])
                err.print(
                    f"\nmedmm: go on with: medmm train {pipeline}{options} --runs {runs} --resume {run}"
                )
                raise
            lines, runs = story.summary(trained), trained.run.parent
    for line in lines:
        out.print(line, markup=False)
    where = f" --root {root}" if root else ""
    if dry_run:
        _next(f"medmm train {pipeline}{where}")
    else:
        _next(
            f"medmm score {trained.bundle} --cohort {planned.folder}{where} --out scores.parquet",
            f"medmm explain {trained.bundle} --cohort {planned.folder}{where} --folds --out reports",
            f"mlflow ui --backend-store-uri {store(runs)}",
        )


@app.command(epilog="Examples: medmm score BUNDLE --cohort COHORT --patient 0042 · … --out scores.parquet")
def score(
    bundle: BundleFolder,
    cohort: CohortOption,
    root: Root = None,
    patient: Annotated[
        list[str] | None,
        typer.Option(help="A patient's id; may be repeated. '-' reads ids from standard input."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", help="scores.parquet, .csv or .jsonl; without it, JSON on standard output."),
    ] = None,
    max_refused: Annotated[
        int | None, typer.Option(min=0, help="Exit 3 when more patients than this are refused.")
    ] = None,
) -> None:
    """Score patients; everyone gets a row, and whoever cannot be scored gets the reason."""
    from medmm.outputs.table import check_place, to_json, write_scores
    from medmm.score import check_refused
    from medmm.score import score as story

    subjects = _subjects(patient)
    if output is not None:
        check_place(output)
    with _progress() as bars:
        scores = story(bundle, cohort, root=root, subjects=subjects, progress=bars)
    if output is None:
        for row in scores:
            print(to_json(row))  # noqa: T201 - the result itself, not a message
    else:
        write_scores(scores, output)
        scored = sum(row.status == "scored" for row in scores)
        out.print(
            f"patients {len(scores)} = {scored} scored + {len(scores) - scored} refused\nscores   {output}"
        )
        _next(f"medmm explain {bundle} --cohort {cohort} --patient ID --out reports")
    if max_refused is not None:
        check_refused(scores, max_refused)


@app.command(
    epilog="Examples: medmm explain BUNDLE --cohort COHORT --patient 0042 · … --folds · … --split held_out"
)
def explain(
    bundle: BundleFolder,
    cohort: CohortOption,
    root: Root = None,
    patient: Annotated[
        list[str] | None,
        typer.Option(help="A patient's id; may be repeated. '-' reads ids from standard input."),
    ] = None,
    split: Annotated[
        Literal["held_out"] | None, typer.Option(help="A page about the patients who were held out.")
    ] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="A page about the training patients, out-of-fold.")
    ] = False,
    output: Annotated[Path, typer.Option("--out", help="Folder of the pages.")] = Path("reports"),
) -> None:
    """Write one self-contained HTML page per patient, or one about a cohort."""
    from medmm import explain as story

    if sum((bool(patient), split is not None, folds)) != 1:
        raise typer.BadParameter("say what to explain: --patient ID, --split held_out or --folds")
    with _progress() as bars:
        if patient:
            pages = story.explain_patients(
                bundle, cohort, _subjects(patient) or [], output, root=root, progress=bars
            )
        else:
            pages = [
                story.explain_cohort(bundle, cohort, output, held_out=not folds, root=root, progress=bars)
            ]
    for page in pages:
        out.print(f"page     {page}", markup=False)
    _next(f"open {pages[-1]} in a browser; it needs no network")


@app.command(epilog="Example: medmm evaluate BUNDLE --cohort cohorts/x")
def evaluate(bundle: BundleFolder, cohort: CohortOption, root: Root = None) -> None:
    """Open the held-out patients, once more, and measure the bundle on them; the opening is counted."""
    from medmm.evaluate import evaluate as story

    with _progress() as bars:
        lines = story(bundle, cohort, root=root, progress=bars)
    for line in lines:
        out.print(line, markup=False)
    _next(f"medmm explain {bundle} --cohort {cohort} --split held_out --out reports")


@app.command(epilog="Example: medmm verify runs/x-…/bundle")
def verify(bundle: BundleFolder) -> None:
    """Check every byte of a bundle against its manifest."""
    from medmm.bundle import verify as check_manifest

    out.print(f"bundle   {bundle} is as it was written\nsha256   {check_manifest(bundle)}")


@app.command(epilog="Example: medmm demo --out /tmp/demo")
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for everything the demo writes.")] = Path(
        "demo"
    ),
    patients: Annotated[int, typer.Option(min=60, help="Size of the synthetic cohort.")] = 240,
) -> None:
    """Run the main job on the embedded synthetic cohort: synthesize, check, train, score, explain."""
    from medmm.demo import demo as story

    with _progress() as bars:
        lines = story(
            folder, patients=patients, say=lambda line: out.print(line, markup=False), progress=bars
        )
    _next(*lines)


@contextmanager
def _progress() -> Iterator[Any]:
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


def _subjects(given: list[str] | None) -> list[str] | None:
    """Return the ids asked for; from standard input they do not show in the process list."""
    if given is None:
        return None
    read = [line.strip() for line in sys.stdin if line.strip()] if "-" in given else []
    if "-" in given and not read:
        raise typer.BadParameter("--patient - reads ids from standard input, and there was none")
    return [subject for subject in given if subject != "-"] + read


def _next(*commands: str) -> None:
    for index, command in enumerate(commands):
        err.print(f"{'next' if index == 0 else '    '}     {_escaped(command)}")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
