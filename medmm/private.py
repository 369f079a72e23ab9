"""A file of this user alone, on disk whole or not at all: ids, pseudonyms and pages lie in such files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from medmm.errors import OutputError, told


def write_private(content: bytes, path: Path) -> None:
    """Write a file so that ``path`` holds all of it or what it held before; only its owner may read it.

    Args:
        content: all of the file.
        path: the file; its folder is made.

    Raises:
        OutputError: if the folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(path)!r} cannot be written ({told(error)}); name another folder") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}); name another folder") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
