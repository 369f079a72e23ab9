from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeps.fusion_doors import through_the_doors


@pytest.mark.slow
def test_a_fusion_over_feature_maps_is_trained_scored_and_explained(written: Path, tmp_path: Path) -> None:
    """One of the twelve, with everything a fusion can have; the sweep tries them all."""
    (tmp_path / "data").symlink_to(written)
    page = through_the_doors(tmp_path, "daft", ", auxiliary: 0.3, modulate: 0.1")
    assert "small_daft" in page
    assert all(name in page for name in ("ct", "records", "biomarkers"))
