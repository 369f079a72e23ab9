"""DICOM in: a folder becomes an index, a series becomes a volume or a typed refusal; never a guess."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Certificate": "certificate",
    "FileEntry": "index",
    "Index": "index",
    "Loaded": "loading",
    "SeriesEntry": "index",
    "Mask": "masks",
    "MaskReference": "masks",
    "Volume": "volume",
    "Waveform": "waveform",
    "load": "loading",
    "load_files": "loading",
    "load_mask": "masks",
    "load_series": "loading",
    "mask_reference": "masks",
    "scan": "index",
    "suv_factor": "suv",
}

__all__ = [
    "Certificate",
    "FileEntry",
    "Index",
    "Loaded",
    "Mask",
    "MaskReference",
    "SeriesEntry",
    "Volume",
    "Waveform",
    "load",
    "load_files",
    "load_mask",
    "load_series",
    "mask_reference",
    "scan",
    "suv_factor",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its file on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
