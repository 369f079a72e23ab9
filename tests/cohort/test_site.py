"""Pseudonyms: keyed, stable, and for every id that a system can hand over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medmm.cohort.site import pseudonym, site_key
from medmm.errors import ConfigError

KEY = b"k" * 32


def test_an_id_of_any_bytes_has_a_pseudonym() -> None:
    ids = ["001", "é", os.fsdecode(b"\xff\xfe"), os.fsdecode(b"\xff"), "\ud800"]
    named = [pseudonym(KEY, subject) for subject in ids]
    assert len(set(named)) == len(ids)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in named)
    assert pseudonym(KEY, "001") == "116d229989ddaebe"


def test_another_key_gives_another_pseudonym() -> None:
    assert pseudonym(KEY, "001") != pseudonym(b"x" * 32, "001")


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "data" / "site.key"
    assert site_key(file) == site_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["site.key"]


def test_a_cut_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="is damaged"):
        site_key(tmp_path / "site.key")
