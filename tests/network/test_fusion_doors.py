"""Every kind of fusion through the doors: train --smoke, score, explain, on one small cohort."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medmm.cli import app
from medmm.network.fusion import FUSIONS

pytestmark = [pytest.mark.xdist_group("fusions"), pytest.mark.slow]

RECIPE = """
name: small_{kind}
question: Will this patient deteriorate?
intended_use: A test.
cohort: ../data
outcome: deterioration
modalities:
  ct:
    kind: image
    shape: [16, 16, 8]
    spacing_mm: fit
    window: [-200, 400]
    encoder: {{kind: cnn, channels: [4, 8]}}
  records: {{kind: records}}
  biomarkers: {{kind: biomarkers}}
fusion: {{kind: {kind}{more}}}
explanation: {{evaluations: 200}}
threshold: {{risk: 0.5}}
"""

TAUGHT = ", auxiliary: 0.3, modulate: 0.1"
"""Kinds that are also tried with heads of their own, which every joint fusion takes."""


@pytest.fixture(scope="module")
def place(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fusions")
    (folder / "data").symlink_to(written)
    return folder


def medmm(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def somebody(place: Path) -> str:
    """Return a patient who has every modality."""
    from medmm.cohort.access import open_cohort
    from medmm.sample import Absence

    for patient in open_cohort(place / "data", place / "data").patients:
        sources = [patient.sources[name] for name in ("ct", "records", "biomarkers")]
        if not any(isinstance(source, Absence) for source in sources):
            return patient.subject_id
    raise AssertionError("nobody has every modality")


@pytest.mark.parametrize("kind", sorted(FUSIONS))
def test_a_fusion_is_trained_scored_and_explained(place: Path, kind: str) -> None:
    more = TAUGHT if kind in ("daft", "tab_cross_attn", "gated") else ""
    pipeline = place / kind
    pipeline.mkdir()
    (pipeline / "recipe.yaml").write_text(RECIPE.format(kind=kind, more=more))
    medmm("train", pipeline, "--root", place / "data", "--runs", place / "runs", "--smoke")
    bundle = next((place / "runs").glob(f"small_{kind}-*")) / "bundle"
    assert json.loads((bundle / "bundle.json").read_text())["fusion"]["kind"] == kind
    cohort = ("--cohort", place / "data", "--root", place / "data", "--patient", somebody(place))
    scored = json.loads(medmm("score", bundle, *cohort))
    assert scored["status"] == "scored"
    assert set(scored["modalities"].values()) == {"used"}
    medmm("explain", bundle, *cohort, "--out", place / "reports" / kind)
    page = next((place / "reports" / kind).glob("*.html")).read_text()
    # The page prints a standard error where references were drawn, and only there.
    assert ('class="whisker"' in page) == (kind in {"film", "daft", "tab_cross_attn"})
