"""Volume certificates as a Parquet file: one row per array or refusal, pseudonyms in the place of UIDs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medmm.dicom.certificate import certificate_columns
from medmm.errors import OutputError
from medmm.sources.duck import write_parquet

TYPES = {
    "study": "VARCHAR",
    "series": "VARCHAR",
    "status": "VARCHAR",
    "reason": "VARCHAR",
    "detail": "VARCHAR",
    "files_used": "BIGINT",
    "files_set_aside": "VARCHAR[]",
    "files_refused": "BIGINT",
    "shape": "BIGINT[]",
    "spacing_mm": "DOUBLE[]",
    "orientation": "VARCHAR",
    "modality": "VARCHAR",
    "rescale": "VARCHAR",
    "units": "VARCHAR",
    "transfer_syntax": "VARCHAR[]",
    "told_apart_by": "VARCHAR[]",
    "notes": "VARCHAR[]",
    "minimum": "DOUBLE",
    "maximum": "DOUBLE",
    "sha256": "VARCHAR",
}
"""The type of each column, so that a file without a used series has the same schema as any other."""


def check_place(path: Path, form: str = "Parquet") -> None:
    """Refuse a place where no file of this form could be written, before anything is loaded.

    Raises:
        OutputError: if it is named as another form, is a folder, or its folder is not there.
    """
    if path.suffix != f".{form.lower()}":
        raise OutputError(f"{path} would be a {form} file; name one that ends in .{form.lower()}")
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no such folder; make it, or name another")


def write_certificates(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write certificates atomically, mode 0600, sorted: the same series give the same rows in any order.

    Args:
        rows: of :meth:`medmm.dicom.Certificate.row`; further columns ("block") are kept as text.
        path: the Parquet file.

    Raises:
        OutputError: if it cannot be written.
    """
    check_place(path)
    columns = certificate_columns(rows)
    write_parquet(columns, path, types={name: TYPES.get(name, "VARCHAR") for name in columns})
