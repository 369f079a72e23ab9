"""A short run of the fuzzer on the files it generates itself; the long one is a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_mutated_files_end_in_results_or_refusals(tmp_path):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.fuzz_dicom", "--inputs", "300", "--seed", "11"],
        cwd=root,
        env={**os.environ, "MEDMM_SHARED": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 inputs, 0 faults" in done.stdout
    assert "16 seeds generated, 0 of the corpus" in done.stdout
