"""What may leave for a place that others read: plain words, nothing that could name a path or a person."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

WITHHELD = "withheld"
"""Stands for a value that might name a path or a person."""

_WORD = re.compile(r"[\w.,:;+*()\[\]{}<>=%'\" -]{0,120}")
_SENTENCE = re.compile(r"(?:[^\W\d_]{2,}[ ,;:]+){3}[^\W\d_]{2,}")
_UNSAFE_IN_NAME = re.compile(r"[^\w./ -]")


def plain(value: Any) -> str:
    """Return a setting as text, or :data:`WITHHELD` where it could be a path or a sentence."""
    if isinstance(value, os.PathLike):
        return WITHHELD
    text = str(value)
    return text if _WORD.fullmatch(text) and not _SENTENCE.search(text) else WITHHELD


def safe_name(name: str) -> str:
    """Return a name in the characters that every store allows."""
    return _UNSAFE_IN_NAME.sub("_", name)[:250]


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown(uri: str) -> str:
    """Return a URI without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
