"""This site: its key, its cache, and the pseudonyms that alone may be shown, logged or put in a path."""

from __future__ import annotations

import hmac
import os
import secrets
import sys
from pathlib import Path

from medmm.errors import ConfigError

KEY_BYTES = 32


def pseudonym(key: bytes, identifier: str) -> str:
    """Return 16 hex digits of HMAC-SHA256(key, identifier); bytes that are no UTF-8 count as they stand."""
    return hmac.digest(key, identifier.encode(errors="surrogatepass"), "sha256")[:8].hex()


def key_file() -> Path:
    """Return where this site's key lies: the user's data folder of the platform."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "medmm" / "site.key"


def index_cache() -> Path:
    """Return where this site keeps what it knows of its DICOM folders: the user's cache folder."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "medmm" / "dicom"


def site_key(path: Path | None = None) -> bytes:
    """Return the site's key, creating its file (mode 0600) the first time.

    Raises:
        ConfigError: if the file is too short to be a key, or cannot be made.
    """
    path = path or key_file()
    try:
        if not path.exists():
            _create(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the site key {path} cannot be made or read: {error.strerror}") from error
    if len(key) < KEY_BYTES:
        raise ConfigError(f"the site key {path} is damaged; restore it, or delete it to get new pseudonyms")
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    try:
        # a link, not a rename: two processes that start together must end with one and the same key
        path.hardlink_to(partial)
    except FileExistsError:
        return
    finally:
        partial.unlink()


def site_mark() -> str:
    """Return a pseudonym of nobody, by which pseudonyms of two times are known to be of one key."""
    return pseudonym(site_key(), "medmm: whose key is this?")
