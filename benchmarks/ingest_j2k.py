"""First ingest of JPEG 2000 CT: CPU seconds of medmm beside the codec alone (OpenJPEG), on the same frames.

The claim: at most 1.5 times the codec's time. The codec gets its frames from memory and returns them; medmm
finds and checks the files, has each frame decoded in a process of its own that a hostile stream cannot
leave, and returns the volume. Both use the same OpenJPEG.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.ingest_ct import all_of, in_turn, medmm, write_series

CLAIMED = 1.5
SIZES = ((6, 24, 128), (1, 16, 512))


def main() -> None:
    """Measure and print; exit 1 when the claim does not hold."""
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = False
    for series, slices, side in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folders = [
                write_series(Path(place) / f"{n}", slices, side, seed=n, jpeg2000=True) for n in range(series)
            ]
            seconds = in_turn({"medmm": all_of(medmm, folders), "codec": codec(folders)})
        ratio = median(ours / theirs for ours, theirs in zip(seconds["medmm"], seconds["codec"], strict=True))
        verdict = "holds" if ratio <= CLAIMED else "DOES NOT HOLD"
        print(f"{series} series of {slices} slices, {side} x {side}:", end=" ")
        print(f"medmm {median(seconds['medmm']):.3f} CPU-s, codec {median(seconds['codec']):.3f} CPU-s")
        print(f"  ratio {ratio:.2f}, claimed at most {CLAIMED}: {verdict}")
        failed |= ratio > CLAIMED
    if failed:
        sys.exit(1)


def codec(folders: list[Path]) -> Callable[[], None]:
    """Return a job that decodes every frame of the folders, held in memory, and keeps nothing."""
    import openjpeg
    import pydicom
    from pydicom.encaps import generate_frames

    files = [file for folder in folders for file in sorted(folder.iterdir())]
    frames = [next(generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=1)) for file in files]

    def job() -> None:
        for frame in frames:
            openjpeg.decode(frame)

    return job


if __name__ == "__main__":
    main()
