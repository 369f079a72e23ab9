"""Scoring one patient in a fresh process: CPU seconds of medmm beside a plain torch + monai + mlflow script.

The claim: at most 1/6 of the peer's CPU time. Both do the same job on the same patient of the synthetic
cohort (find the series, load it, join the tables up to the prediction time, run the network), in turn, in
one run. medmm's index of the DICOM folder is warm, as on a site that scores every night; the cold figure
is printed too. The peer is told where the series lies.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from medmm.cohort.synthetic import synthesize

LIMIT = 1 / 6
ROUNDS = 5
PEER = Path(__file__).parent / "peers" / "plain_score.py"


def main() -> None:
    """Measure and print; exit 1 when the claim does not hold."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        data = synthesize(place / "data", patients=240)
        (place / "recipe.yaml").write_text(_recipe())
        run("-m", "medmm", "train", place, "--root", data, "--runs", place / "runs", "--smoke")
        bundle = next((place / "runs").glob("*/bundle"))
        run(PEER, "save", place / "model")
        subject, series = _somebody(data)
        ours = ["-m", "medmm", "score", bundle, "--cohort", data, "--root", data, "--patient", subject]
        theirs = [PEER, "score", place / "model", data, subject, series]
        shutil.rmtree(place / "cache", ignore_errors=True)
        cold = run(*ours)
        pairs = [(run(*ours), run(*theirs)) for _ in range(ROUNDS)]
    ours_cpu, theirs_cpu = (median(pair[side] for pair in pairs) for side in (0, 1))
    ratio = median(ours / theirs for ours, theirs in pairs)
    print(f"medmm {ours_cpu:.2f} CPU-s (cold index {cold:.2f}), plain script {theirs_cpu:.2f} CPU-s")
    print(f"ratio {ratio:.3f}, claimed at most {LIMIT:.3f}: {'holds' if ratio <= LIMIT else 'DOES NOT HOLD'}")
    if ratio > LIMIT:
        sys.exit(1)


def run(*command: object) -> float:
    """Run a Python command and return its CPU seconds, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _recipe() -> str:
    text = (Path(__file__).parents[1] / "pipelines" / "synthetic_ct" / "recipe.yaml").read_text()
    return text.replace("../../cohorts/synthetic", "data")


def _somebody(data: Path) -> tuple[str, Path]:
    """Return a patient with one CT, and the folder of the series."""
    from medmm.cohort.link import link
    from medmm.cohort.site import site_key
    from medmm.cohort.spec import load_spec
    from medmm.sample import SeriesSource

    for patient in link(load_spec(data), data, key=site_key()).patients:
        source = patient.sources["ct"]
        if isinstance(source, SeriesSource) and len({file.parent for file in source.files}) == 1:
            return patient.subject_id, source.files[0].parent
    raise SystemExit("no patient with a CT in a folder of its own")


if __name__ == "__main__":
    main()
