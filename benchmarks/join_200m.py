"""The look-back join beyond memory: 200 million results of a million patients, 40 codes, 365 days.

As :mod:`benchmarks.join_20m`, ten times larger, against DuckDB's bare query in the same run. Needs 4 GB of
disk for the tables and twice as much for what spills. Limit: medmm finishes with at most 4 GB resident.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.join_20m import generate, in_turns

ROWS, PATIENTS = 200_000_000, 1_000_000
LIMIT_MB = 4096
BARE = "bare in 3 GB"
"""Its 40 million groups end the bare query for lack of memory within medmm's own limit."""


def main(folder: Path | None) -> None:
    """Generate the tables, or take those of a folder, and run both once."""
    with tempfile.TemporaryDirectory(prefix="medmm-join-") as scratch:
        if folder is None:
            generate(Path(scratch), ROWS, PATIENTS)
        found = in_turns(("medmm", BARE), folder or Path(scratch), 1)
    print(f"limit: {LIMIT_MB} MB")
    if abs(found["medmm"]["checksum"] - found[BARE]["checksum"]) > 0.01:
        sys.exit("the results differ")
    if found["medmm"]["peak_mb"] > LIMIT_MB:
        sys.exit("outside the limit")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
