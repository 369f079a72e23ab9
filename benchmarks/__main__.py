"""Run every benchmark: ``python -m benchmarks``."""

import runpy
from pathlib import Path

for script in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    print(f"== {script.stem}", flush=True)
    runpy.run_module(f"benchmarks.{script.stem}", run_name="__main__")
