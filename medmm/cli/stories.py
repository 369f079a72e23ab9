"""The doors of the stories: draft, pretrain, train, score, explain, evaluate, verify, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmm.cli.console import err, going_on, out, progress, say_next
from medmm.cli.options import (
    BundleFolder,
    Cluster,
    CohortOption,
    Pipeline,
    Resume,
    Root,
    Runs,
    Splits,
    given,
    subjects_asked,
    where,
)

if TYPE_CHECKING:
    from medmm.telling import Plan

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multimodal medical diagnosis: train on a cohort, score patients, explain scores.",
    epilog="First steps: medmm demo · your own data: medmm init DATA --out cohorts/x · How far a command is,"
    " a bar says on a terminal, a line a minute elsewhere; what Ctrl-C stops says how to go on.",
)


@app.command(epilog="Example: medmm init DATA --out cohorts/mine")
def init(
    data: Annotated[Path, typer.Argument(help="Folder with tables and DICOM files.", metavar="DATA")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the drafted cohort.yaml.")],
    pipeline: Annotated[
        Path | None, typer.Option(help="Folder for the drafted recipe.yaml; pipelines/… by default.")
    ] = None,
) -> None:
    """Draft cohort.yaml, its open questions marked, and recipe.yaml, each setting with its reason."""
    from medmm.cohort.draft import draft

    with progress() as bars:
        drafted = draft(
            data,
            folder,
            pipeline=pipeline or Path("pipelines") / folder.name,
            progress=bars("scanning DICOM"),
            measuring=bars("measuring images"),
        )
    for line in drafted.lines():
        out.print(line, markup=False)
    say_next(
        f"answer the lines marked `# ?` in {folder}/cohort.yaml, and in the recipe before training",
        f"medmm cohort check {folder}{where(data)}",
    )


@app.command(
    epilog="Examples: medmm train PIPELINE --root DATA --dry-run · … --jobs 2 · … --resume runs/x-…"
    " · torchrun --nproc-per-node 2 -m medmm train PIPELINE"
)
def train(
    pipeline: Pipeline,
    root: Root = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    splits: Splits = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Splits fitted at a time, each on one thread; the same bits for any number. Without it as"
            " many as cores, where there are as many splits and no GPU; else one, on all threads.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Flow, shapes, time, memory, plan, contact sheet; no fitting.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The whole path on a few patients, in about a minute.")
    ] = False,
    cluster: Cluster = None,
) -> None:
    """Fit, judge, seal and track a model, and say whether the image earns its place.

    What is finished is kept: a run that is stopped, however that is, goes on with --resume.
    """
    from medmm import train as story
    from medmm.cluster import knock

    knock(cluster)
    if jobs and story.count() > 1:
        raise typer.BadParameter("--jobs is of one process; here torchrun shares every fit already")
    with progress(shown=story.leads()) as bars:
        planned = story.plan(pipeline, root=root, splits=splits, smoke=smoke, progress=bars)
        if not story.leads():
            if not dry_run:
                story.follow(planned, story.open_run(planned, runs, resume))
            return
        if dry_run:
            lines = story.rehearse(planned, runs, progress=bars)
            then = [f"medmm train {pipeline}{given(root=root, splits=splits)}"]
        else:
            jobs = jobs or (None if smoke else story.side_by_side(planned))
            run = _begun(planned, runs, resume)
            again = given(root=root, splits=splits, jobs=jobs, cluster=cluster) + " --smoke" * smoke
            with going_on(f"medmm train {pipeline}{again}{given(runs=runs, resume=run)}"):
                trained = story.train(
                    planned, run, register=not smoke, jobs=jobs, cluster=cluster, progress=bars
                )
            lines, then = story.summary(trained), _after(planned, trained.bundle, root, store=run.parent)
            lines = [story.REHEARSAL, *lines] if smoke else lines
    for line in lines:
        out.print(line, markup=False)
    say_next(*then)


def _begun(planned: Plan, runs: Path, resume: Path | None) -> Path:
    """Open the folder of a run, and say which it is: whoever is stopped without a word needs it."""
    from medmm.train import open_run

    run = open_run(planned, runs, resume)
    err.print(f"run      {run}; if it is stopped, --resume takes it up", markup=False)
    return run


def _after(planned: Plan, bundle: Path, root: Path | None, *, store: Path) -> list[str]:
    """Return what is done with a bundle: score, explain, look at the runs beside it."""
    from medmm.tracking import store as tracking_store

    cohort = f"--cohort {planned.folder}{where(root)}"
    return [
        f"medmm score {bundle} {cohort} --out scores.parquet",
        f"medmm explain {bundle} {cohort} --folds --out reports",
        f"mlflow ui --workers 1 --backend-store-uri {tracking_store(store)}",
    ]


@app.command(
    epilog="Examples: medmm launch PIPELINE --root DATA --processes 4 --cluster head-node:6379"
    " · … --resume runs/x-…"
)
def launch(
    pipeline: Pipeline,
    processes: Annotated[int, typer.Option(min=2, max=4096, help="How many share every batch.")],
    cluster: Annotated[str, typer.Option(help="Address of a Ray cluster (host:port), or local.")],
    root: Root = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    splits: Splits = None,
) -> None:
    """Train with several processes on the machines of a Ray cluster, as `train` does with one.

    What is finished is kept: a run that is stopped, however that is, goes on with --resume.
    """
    from medmm import launch as story
    from medmm.cluster import knock
    from medmm.searching import check_processes
    from medmm.train import plan

    knock(cluster)
    with progress() as bars:
        planned = plan(pipeline, root=root, splits=splits, progress=bars)
        check_processes(planned.recipe, processes)
        run = _begun(planned, runs, resume)
        again = given(processes=processes, cluster=cluster, root=root, splits=splits, runs=runs, resume=run)
        with going_on(f"medmm launch {pipeline}{again}"):
            trained = story.launch(
                pipeline,
                run,
                root=root,
                splits=splits,
                processes=processes,
                cluster=cluster,
                progress=bars,
            )
    for line in trained.lines:
        out.print(line, markup=False)
    say_next(*_after(planned, trained.bundle, root, store=run.parent))


@app.command(epilog="Examples: medmm search PIPELINE --root DATA · … --resume runs/x-…")
def search(
    pipeline: Pipeline,
    root: Root = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    cluster: Cluster = None,
) -> None:
    """Try the settings of the recipe's search on the training patients; `train` does so by itself.

    A finished trial is kept: a search that is stopped goes on with --resume.
    """
    from medmm import train as story
    from medmm.cluster import knock

    knock(cluster)
    with progress() as bars:
        planned = story.plan(pipeline, root=root, progress=bars)
        run = _begun(planned, runs, resume)
        more = f"{pipeline}{given(root=root, runs=runs, cluster=cluster, resume=run)}"
        with going_on(f"medmm search {more}"):
            lines = story.search(planned, run, cluster=cluster, progress=bars)
    for line in lines:
        out.print(line, markup=False)
    say_next(f"medmm train {more}")


@app.command(epilog="Example: medmm pretrain PIPELINE --root DATA --out pretrained/ct")
def pretrain(
    pipeline: Pipeline,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the pretrained encoders.")],
    root: Root = None,
    runs: Runs = Path("runs"),
    splits: Splits = None,
) -> None:
    """Let encoders learn from the training split without its labels, as the recipe's `pretraining` says.

    What was stopped is taken up by the same command.
    """
    from medmm.pretrain import pretrain as story

    again = given(out=folder, root=root, runs=runs, splits=splits)
    with progress() as bars, going_on(f"medmm pretrain {pipeline}{again}"):
        learned = story(pipeline, folder, runs=runs, root=root, splits=splits, progress=bars)
    for line in learned.lines():
        out.print(line, markup=False)
    say_next(
        f"write `pretrained: {folder.absolute()}` into the recipe",
        f"medmm train {pipeline}{given(root=root, splits=splits)}",
    )


@app.command(
    epilog="Examples: medmm score BUNDLE --cohort COHORT --patient 0042 · … --out scores.parquet"
    " · … --out scores.parquet --overwrite · … --out scores.parquet --cluster head-node:6379"
)
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
        typer.Option(
            "--out",
            help="A new file: scores.parquet, .csv or .jsonl; without it, JSON on standard output.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out where it is there already, once all is scored.")
    ] = False,
    max_refused: Annotated[
        int | None, typer.Option(min=0, help="Exit 3 when more patients than this are refused.")
    ] = None,
    cluster: Cluster = None,
) -> None:
    """Score patients; everyone gets a row, and whoever cannot be scored gets the reason.

    A file is written once everybody is scored: whole, or not at all.
    """
    from medmm.outputs.table import check_place, to_json, write_scores
    from medmm.score import check_refused
    from medmm.score import score as story

    subjects = subjects_asked(patient)
    if output is not None:
        check_place(output, overwrite=overwrite)
    with progress() as bars:
        scores = story(bundle, cohort, root=root, subjects=subjects, cluster=cluster, progress=bars)
    if output is None:
        for row in scores:
            print(to_json(row))  # noqa: T201 - the result itself, not a message
    else:
        write_scores(scores, output)
        scored = sum(row.status == "scored" for row in scores)
        out.print(
            f"patients {len(scores)} = {scored} scored + {len(scores) - scored} refused\nscores   {output}",
            markup=False,
        )
        say_next(f"medmm explain {bundle} --cohort {cohort}{where(root)} --patient ID --out reports")
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
    from medmm.report.page import check_folder

    if sum((bool(patient), split is not None, folds)) != 1:
        raise typer.BadParameter("give exactly one of --patient ID, --split held_out and --folds")
    check_folder(output)
    with progress() as bars:
        if patient:
            pages = story.explain_patients(
                bundle, cohort, subjects_asked(patient) or [], output, root=root, progress=bars
            )
        else:
            pages = [
                story.explain_cohort(bundle, cohort, output, held_out=not folds, root=root, progress=bars)
            ]
    for page in pages:
        out.print(f"page     {page}", markup=False)
    say_next(f"open {pages[-1]} in a browser; it needs no network")


@app.command(epilog="Example: medmm evaluate BUNDLE --cohort cohorts/x")
def evaluate(bundle: BundleFolder, cohort: CohortOption, root: Root = None) -> None:
    """Open the held-out patients, once more, and measure the bundle on them; the opening is counted."""
    from medmm.evaluate import evaluate as story

    with progress() as bars:
        lines = story(bundle, cohort, root=root, progress=bars)
    for line in lines:
        out.print(line, markup=False)
    say_next(f"medmm explain {bundle} --cohort {cohort}{where(root)} --split held_out --out reports")


@app.command(epilog="Example: medmm verify runs/x-…/bundle")
def verify(bundle: BundleFolder) -> None:
    """Check every byte of a bundle against its manifest."""
    from medmm.bundle import verify as check_manifest

    out.print(f"bundle   {bundle} is as it was written\nsha256   {check_manifest(bundle)}", markup=False)


@app.command(epilog="Example: medmm demo --out /tmp/demo")
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for everything the demo writes.")] = Path(
        "demo"
    ),
    patients: Annotated[int, typer.Option(min=60, help="Size of the synthetic cohort.")] = 240,
) -> None:
    """Run the main job on the embedded synthetic cohort: synthesize, check, train, score, explain."""
    from medmm.demo import demo as story

    with progress() as bars:
        lines = story(
            folder, patients=patients, say=lambda line: out.print(line, markup=False), progress=bars
        )
    say_next(*lines)
