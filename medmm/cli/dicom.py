"""The doors of a DICOM folder: ``medmm dicom …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmm.cli.console import out, progress, say_next

dicom_app = typer.Typer(no_args_is_help=True, help="What is in a DICOM folder.")

DicomFolder = Annotated[Path, typer.Argument(help="Folder with DICOM files.", metavar="DIR")]


@dicom_app.command("index", epilog="Example: medmm dicom index DATA/dicom")
def dicom_index(folder: DicomFolder) -> None:
    """List every series with status, reason and geometry, and account for every file, from the headers."""
    from medmm.cohort.site import site_key
    from medmm.dicom import scan
    from medmm.dicom.inspect import file_lines, outline, table_lines

    with progress() as bars:
        index = scan(folder, progress=bars("scanning DICOM"))
        lines = table_lines(outline(index, site_key(), progress=bars("planning series")))
    for line in [*lines, *file_lines(index)]:
        out.print(line, markup=False)
    say_next(f"medmm dicom inspect {folder}")


@dicom_app.command(
    "inspect",
    epilog="Examples: medmm dicom inspect DATA/dicom --out sheet.png · … --certificates certificates.parquet",
)
def dicom_inspect(
    folder: DicomFolder,
    sheet: Annotated[Path, typer.Option("--out", help="PNG of the middle slices.")] = Path("sheet.png"),
    certificates: Annotated[
        Path | None,
        typer.Option(help="Parquet of the volume certificates: geometry, reasons, SHA-256, pseudonyms."),
    ] = None,
) -> None:
    """Load every series, list what each becomes, and draw its middle slices."""
    from medmm.cohort.site import site_key
    from medmm.dicom import scan
    from medmm.dicom.inspect import inspect, table_lines
    from medmm.outputs.certificates import check_place, write_certificates
    from medmm.private import write_private
    from medmm.report.images import Tile, contact_sheet

    check_place(sheet, "PNG")
    if certificates is not None:
        check_place(certificates)
    with progress() as bars:
        index = scan(folder, progress=bars("scanning DICOM"))
        found = list(inspect(index, site_key(), progress=bars("loading series")))
    for line in table_lines(entry.row for entry in found):
        out.print(line, markup=False)
    pictures = [entry.picture for entry in found if entry.picture]
    tiles = [Tile(picture.array[None], "intensity", picture.caption, picture.axes) for picture in pictures]
    write_private(contact_sheet(tiles), sheet)
    if certificates is not None:
        rows = [entry.certificate.row(site_key()) for entry in found]
        write_certificates(rows, certificates)
        out.print(f"certificates {certificates}: {len(rows)} rows", markup=False)
    say_next(f"look at {sheet}")
