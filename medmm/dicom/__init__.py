"""DICOM in: a folder becomes an index, a series becomes a volume or a typed refusal; never a guess."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Bag": "bag",
    "Certificate": "certificate",
    "FileEntry": "index",
    "Index": "index",
    "Loaded": "loading",
    "Mask": "masks",
    "MaskEntry": "index",
    "MaskReference": "references",
    "SeriesEntry": "index",
    "Volume": "volume",
    "Waveform": "waveform",
    "certificate_columns": "certificate",
    "certificate_counts": "certificate",
    "certificate_rows": "certificate",
    "certificate_summary": "certificate",
    "load": "loading",
    "load_bag": "bag",
    "load_files": "loading",
    "load_many": "parallel",
    "load_mask": "masks",
    "load_series": "loading",
    "mask_reference": "references",
    "scan": "index",
    "suv_factor": "suv",
}

__all__ = [
    "Bag",
    "Certificate",
    "FileEntry",
    "Index",
    "Loaded",
    "Mask",
    "MaskEntry",
    "MaskReference",
    "SeriesEntry",
    "Volume",
    "Waveform",
    "certificate_columns",
    "certificate_counts",
    "certificate_rows",
    "certificate_summary",
    "load",
    "load_bag",
    "load_files",
    "load_many",
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
