"""Second run over the same CT: CPU seconds from medmm's own cache beside MONAI's PydicomReader.

The claim: at least 40 times as fast. The second run checks by name, size and time that every file is the one
that was prepared, then maps the prepared images into memory and reads each once; MONAI reads the folders
again. Images keep their full size, so that both return as many voxels.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.ingest_ct import all_of, holds, in_turn, monai_reader, write_series

CLAIMED = 40.0
PEER = "MONAI PydicomReader"
SIZES = ((8, 32, 128), (2, 48, 512))


def main() -> None:
    """Measure and print; exit 1 when the claim does not hold."""
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    failed = False
    for series, slices, side in SIZES:
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            folders = [write_series(root / f"{n}", slices, side, seed=n) for n in range(series)]
            jobs = {"medmm": cached(folders, (side, side, slices), root / "cache")}
            seconds = in_turn({**jobs, PEER: all_of(monai_reader(), folders)})
        print(f"{series} series of {slices} slices, {side} x {side}:")
        failed |= not holds(seconds, PEER, CLAIMED)
    if failed:
        sys.exit(1)


def cached(folders: list[Path], shape: tuple[int, int, int], cache: Path) -> Callable[[], None]:
    """Return a job that prepares the images, which is a look into the cache from the second time on."""
    from medmm.columns import ImageSpec
    from medmm.fitting.inputs import prepare_images
    from medmm.modalities.image import Image, ImageSettings
    from medmm.sample import SeriesSource

    modality = Image("ct", ImageSettings(shape=shape, window=(-1000.0, 400.0)), ImageSpec(dir="dicom"))

    def job() -> None:
        sources = [SeriesSource(tuple(folder.iterdir()), pseudonym=folder.name) for folder in folders]
        prepared = prepare_images(modality, sources, cache)
        for row in prepared.row_of:
            np.array(prepared.array[row])

    return job


if __name__ == "__main__":
    main()
