"""From a template and plain values to one self-contained file."""

from __future__ import annotations

import base64
import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medmm.errors import OutputError, told
from medmm.private import write_private
from medmm.report import wording


def render(template: str, **values: Any) -> str:
    """Return the template filled in: everything escaped, an undefined name is an error."""
    return _environment().get_template(template).render(**values)


def data_uri(png: bytes) -> str:
    """Return a PNG as the ``data:`` address that the page's content security policy admits."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def check_folder(folder: Path) -> None:
    """Refuse a folder in which no page could be written, before anything is worked out.

    Raises:
        OutputError: if it, or what it would lie in, is a file, or nothing may be written there.
    """
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"cannot write pages in {str(folder)!r}: {told(error)}; name another folder"
        ) from None
    if not usable:
        why = "not yours to write in" if nearest.is_dir() else "a file"
        raise OutputError(f"cannot write pages in {str(folder)!r}: {nearest} is {why}; name another folder")


def write_page(html: str, path: Path) -> None:
    """Write a page, as :func:`medmm.private.write_private` does.

    Args:
        html: a rendered page.
        path: the file; its folder is made.

    Raises:
        OutputError: if the folder cannot be made or written.
    """
    write_private(html.encode("utf-8"), path)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=_printable,
    )
    environment.filters.update(
        of_100=wording.of_100,
        count_of_100=wording.count_of_100,
        signed=wording.signed,
        number=wording.number,
        percent=wording.percent,
        thousands=wording.thousands,
        interval=wording.interval,
        estimated=wording.estimated,
        unit=wording.unit_text,
        with_unit=wording.with_unit,
        when=wording.when,
        moment=wording.moment,
        data_uri=data_uri,
        zip=zip,
    )
    return environment


def _printable(value: Any) -> Any:
    return wording.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
