"""The doors of a cohort: ``medmm cohort …``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmm.cli.console import out, progress, say_next
from medmm.cli.options import CohortFolder, Root, where
from medmm.errors import DataError

if TYPE_CHECKING:
    from medmm.cohort.link import Cohort
    from medmm.cohort.spec import CohortSpec

cohort_app = typer.Typer(no_args_is_help=True, help="Who is in, and what was known when.")


@cohort_app.command(
    epilog="Example: medmm cohort synthesize /tmp/synthetic --patients 240 · … --as meds --as omop --as fhir"
)
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where to write the cohort.", metavar="DIR")],
    patients: Annotated[int, typer.Option(min=40, help="How many.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    also: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="meds|omop|fhir", help="Write the tables as this data model too."),
    ] = None,
) -> None:
    """Write the embedded synthetic cohort, with the planted truth beside it."""
    from medmm.cohort.synthetic import synthesize as write
    from medmm.cohort.synthetic.exports import export

    with progress() as bars:
        write(folder, patients=patients, seed=seed, progress=bars("writing patients"))
    out.print(f"cohort   {folder}/cohort.yaml\ntruth    {folder}/truth.json")
    for form in also or ():
        out.print(f"{form:8} {export(folder, form)}")
    say_next(f"medmm cohort check {folder} --root {folder}")


@cohort_app.command(
    epilog="Examples: medmm cohort check cohorts/picai_psa --root DATA/picai_psa · … --red-team --out reports"
)
def check(
    cohort: CohortFolder,
    root: Root = None,
    series: Annotated[
        Path | None,
        typer.Option(help="Parquet of every candidate series: chosen, or the reason why not; pseudonyms."),
    ] = None,
    red_team: Annotated[
        bool, typer.Option("--red-team", help="Look for leaks, shortcuts and copies; write HTML and JSON.")
    ] = False,
    pages: Annotated[Path, typer.Option("--out", help="Folder of the red team's pages.")] = Path("reports"),
) -> None:
    """Join the cohort and print who is in, what is missing and what looks wrong."""
    from medmm.cohort.check import check as inspect
    from medmm.cohort.link import link
    from medmm.cohort.site import index_cache, site_key
    from medmm.cohort.spec import data_root, load_spec
    from medmm.outputs.certificates import check_place

    if series is not None:
        check_place(series)
    if red_team:
        from medmm.report.page import check_folder

        check_folder(pages)
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
    if not linked.patients:
        raise DataError(f"{spec.name}: no patient is left to train on or to score; the flow above says why")
    if series is not None:
        _keep_series(linked, series)
    if red_team:
        _attack(spec, folder, cohort, pages)
    else:
        say_next(
            f"medmm cohort check {cohort}{where(root)} --red-team",
            f"medmm train pipelines/…{where(root)} --dry-run",
        )


def _keep_series(linked: Cohort, file: Path) -> None:
    from medmm.cohort.check import series_columns
    from medmm.sources.duck import write_parquet

    columns = series_columns(linked)
    write_parquet(columns, file)
    out.print(f"series   {file}: {len(columns['block'])} candidates", markup=False)


def _attack(spec: CohortSpec, root: Path, cohort: Path, folder: Path) -> None:
    from medmm.cohort.split import decide
    from medmm.redteam.attack import attack, open_for_attack
    from medmm.redteam.page import lines, to_html, to_json
    from medmm.report.page import write_page

    with progress() as bars:
        linked = open_for_attack(spec, root)
        splits = decide(linked, folder=cohort)[1] if spec.splits.file else None
        found = attack(linked, root, splits=splits, progress=bars)
    for told in found:
        name = f"{told.cohort}-{told.outcome}-red-team"
        write_page(to_html(told), folder / f"{name}.html")
        write_page(to_json(told), folder / f"{name}.json")
        for line in lines(told):
            out.print(line, markup=False)
        out.print(f"page     {folder / name}.html", markup=False)
    say_next("read docs/red-team.md on what each rule means")


@cohort_app.command(epilog="Example: medmm cohort split cohorts/x --root DATA --out splits.json")
def split(
    cohort: CohortFolder,
    root: Root = None,
    file: Annotated[
        Path, typer.Option("--out", help="A new file; it holds ids, so only you may read it.")
    ] = Path("splits.json"),
) -> None:
    """Divide the cohort as cohort.yaml says, and write who is where, for any run or team to use."""
    from medmm.cohort.access import open_cohort
    from medmm.cohort.split import check_place, decide, lines

    check_place(file)
    with progress() as bars:
        linked, splits = decide(open_cohort(cohort, root, progress=bars), folder=cohort)
    splits.save(file)
    for line in lines(linked, splits):
        out.print(line, markup=False)
    say_next(f"medmm train pipelines/…{where(root)} --splits {file}")


@cohort_app.command(epilog="Example: medmm cohort table1 cohorts/x --root DATA --out reports")
def table1(
    cohort: CohortFolder,
    root: Root = None,
    splits: Annotated[
        Path | None, typer.Option(help="splits.json, in place of what cohort.yaml says.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the page and the table.")] = Path(
        "reports"
    ),
) -> None:
    """Write who is in the cohort: inclusion flow, baseline by split and outcome, who lacks what."""
    from medmm.cohort.access import open_cohort
    from medmm.cohort.split import assign, decide
    from medmm.cohort.table1 import table1 as describe
    from medmm.report.page import check_folder, write_page
    from medmm.report.table1 import render_table1, table1_csv

    check_folder(folder)
    with progress() as bars:
        linked, division = decide(open_cohort(cohort, root, progress=bars), folder=cohort, file=splits)
    table = describe(assign(linked, division))
    for what, text in (("html", render_table1(table)), ("csv", table1_csv(table))):
        write_page(text, folder / f"{table.cohort}-table1.{what}")
        out.print(f"{what:<8} {folder / table.cohort}-table1.{what}", markup=False)
    say_next(f"medmm cohort check {cohort}{where(root)} --red-team")
