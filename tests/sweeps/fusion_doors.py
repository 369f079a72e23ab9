"""Every kind of fusion through the doors: ``python -m tests.sweeps.fusion_doors``, some minutes.

One small synthetic cohort; for each kind `train --smoke`, `score` and `explain`, as a user would. The suite
runs one of them (tests/network/test_fusion_doors.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from typer.testing import CliRunner

from medmm.cli import app
from medmm.cohort.synthetic import synthesize
from medmm.network.fusion import FUSIONS
from tests.conftest import RECIPE

OVER_MAPS = {"film", "daft", "tab_cross_attn"}


def main() -> None:
    """Try the kinds asked for, or all; exit 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=sorted(FUSIONS))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["XDG_DATA_HOME"] = str(place / "site")
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        synthesize(place / "data", patients=60, seed=1)
        for kind in parser.parse_args().kinds:
            started = time.process_time()
            try:
                through_the_doors(place, kind)
                said = "ok"
            except Exception:
                traceback.print_exc()
                failed, said = failed + 1, "FAILED"
            print(f"{kind:<18} {said:<7} {time.process_time() - started:5.1f} CPU-s", flush=True)
    sys.exit(1 if failed else 0)


def through_the_doors(place: Path, kind: str, more: str = "") -> str:
    """Train, score and explain one kind in a folder with the cohort in ``data``; return the page."""
    pipeline, data = place / kind, place / "data"
    pipeline.mkdir()
    recipe = RECIPE.replace("name: small", f"name: small_{kind}").replace("cohort: data", "cohort: ../data")
    recipe += f"fusion: {{kind: {kind}{more}}}\nexplanation: {{evaluations: 200}}\n"
    (pipeline / "recipe.yaml").write_text(recipe)
    medmm("train", pipeline, "--root", data, "--runs", place / "runs", "--smoke")
    bundle = next((place / "runs").glob(f"small_{kind}-*")) / "bundle"
    described = json.loads((bundle / "bundle.json").read_text())
    assert described["fusion"]["kind"] == kind
    assert described["evaluations"] == (200 if kind in OVER_MAPS else None)
    cohort = ("--cohort", data, "--root", data, "--patient", somebody(data))
    scored = json.loads(medmm("score", bundle, *cohort))
    assert scored["status"] == "scored"
    assert set(scored["modalities"].values()) == {"used"}, scored["modalities"]
    # Explaining refuses by itself where the shares miss the scored logit by more than 1e-5.
    medmm("explain", bundle, *cohort, "--out", place / "reports" / kind)
    page = next((place / "reports" / kind).glob("*.html")).read_text()
    # Standard errors are drawn where shares were; two epochs may leave them too small to be seen.
    assert kind in OVER_MAPS or 'class="whisker"' not in page
    return page


def medmm(*arguments: object) -> str:
    """Run a door in this process and return what it printed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def somebody(data: Path) -> str:
    """Return a patient who has every modality."""
    from medmm.cohort.access import open_cohort
    from medmm.sample import Absence

    for patient in open_cohort(data, data).patients:
        sources = [patient.sources[name] for name in ("ct", "records", "biomarkers")]
        if not any(isinstance(source, Absence) for source in sources):
            return patient.subject_id
    raise AssertionError("nobody has every modality")


if __name__ == "__main__":
    main()
