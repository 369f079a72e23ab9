"""Every error medmm raises on purpose, and the exit code each one owns.

    MedmmError                     1   anything below
    ├── TooManyRefused             3   more patients refused than the caller allows
    ├── ConfigError   (ValueError) 4   cohort.yaml or recipe.yaml cannot mean what it says
    ├── DataError     (ValueError) 5   a table is missing, malformed or contradicts itself
    ├── DicomRefusal  (ValueError) 6   a file or series that must not become an array
    ├── BundleError   (ValueError) 7   a bundle that is damaged, altered or of another schema
    ├── OutputError   (OSError)    8   a result that cannot be written where it was asked for
    ├── FittingError  (RuntimeError) 9 training cannot go on, or cannot start
    ├── ExplanationError (RuntimeError) 10  an explanation that would not add up
    └── ClusterError  (RuntimeError) 11 a cluster that cannot be reached, or cannot do the work

A message says what, which modality, where and what to do. It never carries a patient's id, name or
birth date: subjects are named by their pseudonym. Usage errors exit 2, an interrupt exits 130,
a termination 143.
"""

from __future__ import annotations

from typing import ClassVar


class MedmmError(Exception):
    """Base of the tree; catching it catches every refusal made on purpose."""

    exit_code: ClassVar[int] = 1


class TooManyRefused(MedmmError):
    """More patients were refused than ``--max-refused`` allows."""

    exit_code = 3


class ConfigError(MedmmError, ValueError):
    """A cohort.yaml or recipe.yaml that cannot mean what it says."""

    exit_code = 4


class DataError(MedmmError, ValueError):
    """A table that is missing, malformed or contradicts itself."""

    exit_code = 5


class DicomRefusal(MedmmError, ValueError):
    """A DICOM file or series that must not become an array.

    Attributes:
        reason: a code of :data:`REASONS`.
        detail: one sentence without patient data.
    """

    exit_code = 6

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise AssertionError(f"{reason!r} is not a refusal reason")
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self) -> tuple[type[DicomRefusal], tuple[str, str]]:
        """Let a refusal come home from another process as it left."""
        return type(self), (self.reason, self.detail)


class BundleError(MedmmError, ValueError):
    """A bundle that is damaged, altered or written by another schema."""

    exit_code = 7


class OutputError(MedmmError, OSError):
    """A result that cannot be written where it was asked for."""

    exit_code = 8


class FittingError(MedmmError, RuntimeError):
    """Training that cannot start, or cannot go on."""

    exit_code = 9


class ExplanationError(MedmmError, RuntimeError):
    """An explanation that would not add up to the score it explains."""

    exit_code = 10


class ClusterError(MedmmError, RuntimeError):
    """A cluster that cannot be reached, or whose machines cannot do the work."""

    exit_code = 11


def told(error: Exception) -> str:
    """Return why the system refused a path, without the path: it may be named by a patient's id."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, RuntimeError):
        return "symbolic links lead in a circle"  # what Path.resolve() raises before Python 3.13
    return "a name holds a character that no path may hold"


UNUSABLE_PATH = (OSError, ValueError, RuntimeError)
"""What the standard library raises for a path that cannot be used: no permission, NUL, links in a circle."""


REASONS = frozenset(
    {
        "corrupt",
        "no_pixel_data",
        "not_dicom",
        "no_dicom",
        "no_mask",
        "no_volume",
        "unsupported_sop",
        "unsupported_transfer_syntax",
        "unsupported_photometric",
        "inconsistent_geometry",
        "missing_geometry",
        "missing_slices",
        "gantry_tilt",
        "duplicate_slices",
        "duplicate_uid",
        "multiple_volumes",
        "multiple_series",
        "multiple_patients",
        "multiframe_not_spatial",
        "invalid_spacing",
        "invalid_rescale",
        "missing_tags",
        "resource_limit",
    }
)
"""The reasons for which a DICOM file or series is refused; one vocabulary for every door. `no_mask` is a
recipe's: it wants the mask of a series on which none was drawn in time. `no_volume` is a cohort's: it names
values that no volume of the series has."""
