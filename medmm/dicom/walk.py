"""Every file below a folder, once, and what cannot even be opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medmm.errors import UNUSABLE_PATH, DicomRefusal

OUTSIDE = ("set_aside", "outside_root")
UNREADABLE = ("refused", "unreadable")
"""The status and reason of what is not even opened."""


def walk(root: Path) -> Iterator[tuple[str, int, int, tuple[str, str] | None]]:
    """Yield (path relative to root, size, mtime_ns, what becomes of it unread or None) of every file.

    A folder that cannot be listed stands for what is in it.
    """
    prefix = len(os.fspath(root).rstrip(os.sep)) + 1
    folders = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
        except OSError as error:
            if folder == os.fspath(root):
                raise DicomRefusal("no_dicom", f"the folder cannot be read: {error.strerror}") from None
            yield f"{folder[prefix:].replace(os.sep, '/')}/", 0, 0, UNREADABLE
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
                continue
            name = entry.path[prefix:].replace(os.sep, "/")
            try:
                inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(root)
                if entry.is_file() or not inside or entry.is_symlink():
                    state = entry.stat(follow_symlinks=inside and Path(entry.path).exists())
                    yield name, state.st_size, state.st_mtime_ns, None if inside else OUTSIDE
            except UNUSABLE_PATH:  # links in a circle; a folder that lists its files but lets nobody at them
                yield name, 0, 0, UNREADABLE
