"""Drafted YAML, line by line, and files that appear whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Lines = Iterator[str]


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=1 << 20, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()


def line_of(depth: int, key: str, value: Any, question: str = "", *, reason: str = "") -> str:
    """Return one drafted line: a value, with the question that a person must answer or the value's reason."""
    told = f" # ? {question}" if question else f" # {reason}" if reason else ""
    return f"{'  ' * depth}{flow(key)}: {flow(value)}{told}"


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8")
        path.hardlink_to(partial)  # unlike a rename, a link never replaces what is there
    finally:
        partial.unlink(missing_ok=True)
