"""The doors of a cohort: ``medmm cohort …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmm.cli.common import CohortFolder, Root, out, progress, say_next

cohort_app = typer.Typer(no_args_is_help=True, help="Who is in, and what was known when.")


@cohort_app.command(epilog="Example: medmm cohort synthesize /tmp/synthetic --patients 240")
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where to write the cohort.", metavar="DIR")],
    patients: Annotated[int, typer.Option(min=40, help="How many.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Write the embedded synthetic cohort, with the planted truth beside it."""
    from medmm.cohort.synthetic import synthesize as write

    with progress() as bars:
        write(folder, patients=patients, seed=seed, progress=bars("writing patients"))
    out.print(f"cohort   {folder}/cohort.yaml\ntruth    {folder}/truth.json")
    say_next(f"medmm cohort check {folder} --root {folder}")


@cohort_app.command(
    epilog="Examples: medmm cohort check cohorts/picai_psa --root DATA/picai_psa · … --series series.parquet"
)
def check(
    cohort: CohortFolder,
    root: Root = None,
    series: Annotated[
        Path | None,
        typer.Option(help="Parquet of every candidate series: chosen, or the reason why not; pseudonyms."),
    ] = None,
) -> None:
    """Join the cohort and print who is in, what is missing and what looks wrong."""
    from medmm.cohort.check import check as inspect
    from medmm.cohort.check import series_columns
    from medmm.cohort.link import link
    from medmm.cohort.site import index_cache, site_key
    from medmm.cohort.spec import data_root, load_spec

    spec = load_spec(cohort)
    with progress() as bars:
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
    if series is not None:
        from medmm.sources.duck import write_parquet

        columns = series_columns(linked)
        write_parquet(columns, series)
        out.print(f"series   {series}: {len(columns['block'])} candidates", markup=False)
    say_next("medmm train pipelines/… --dry-run")
