"""Files of this user alone, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from medmm.errors import OutputError
from medmm.private import write_private


def test_a_file_is_replaced_whole_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "made" / "list.json"
    write_private(b"first", file)
    write_private(b"second", file)
    assert file.read_bytes() == b"second"
    assert file.stat().st_mode & 0o077 == 0
    assert [found.name for found in file.parent.iterdir()] == ["list.json"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder cannot be written"):
        write_private(b"x", tmp_path / "folder")
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OutputError, match="name another folder"):
        write_private(b"x", tmp_path / "file" / "below")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"kept"
