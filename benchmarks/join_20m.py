"""The look-back join: 20 million results of 100,000 patients, 40 codes, 365 days, 5 summaries.

medmm (units, plausible ranges, duplicates, accounts, as-of times) against DuckDB's bare query and pandas,
each in a process of its own, from the same Parquet files, two threads, in turns. CPU seconds, the median of
the rounds, and peak memory, the highest. The bare query, like medmm, gives the time of the last result beside
the five summaries; without it, it takes about a tenth less.
Limits: at most 1.2 times the bare query, ahead of pandas, at most 1.2 GB.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medmm.sources.duck import MEMORY_MB

ROWS, PATIENTS, CODES, DAYS = 20_000_000, 100_000, 40, 365
SUMMARIES = ("last", "min", "max", "mean", "count")
LIMIT_RATIO, LIMIT_MB = 1.2, 1200
ROUNDS = 2


def generate(folder: Path, rows: int, patients: int) -> None:
    """Write results.parquet and records.parquet, unsorted."""
    import duckdb

    with duckdb.connect(config={"memory_limit": "1GB", "threads": 2, "temp_directory": str(folder)}) as made:
        made.execute("SET preserve_insertion_order = false")
        made.execute(
            f"""COPY (SELECT 'P' || lpad((hash(i * 7 + 1) % {patients})::VARCHAR, 7, '0') AS patient_id,
            'LAB' || lpad((hash(i * 11 + 3) % {CODES})::VARCHAR, 2, '0') AS code,
            round(exp(2.5 + (hash(i * 13 + 5) % 1000000) / 1000000.0), 3)::DOUBLE AS value, 'mg/L' AS unit,
            TIMESTAMP '2022-01-01' + to_seconds((hash(i * 17 + 9) % (2 * 365 * 86400))::BIGINT) AS taken
            FROM range({rows}) t(i)) TO '{folder}/results.parquet' (FORMAT parquet)"""
        )
        made.execute(
            f"""COPY (SELECT 'P' || lpad(i::VARCHAR, 7, '0') AS patient_id,
            TIMESTAMP '2023-01-01' + to_seconds((hash(i * 19 + 2) % (365 * 86400))::BIGINT) AS seen
            FROM range({patients}) t(i)) TO '{folder}/records.parquet' (FORMAT parquet)"""
        )


def medmm(folder: Path) -> float:
    """Join through cohort.yaml, as any cohort is joined."""
    from medmm.cohort import link
    from medmm.cohort.spec import CohortSpec

    result = {"role": "input", "unit": "mg/L", "plausible": [0, 1000], "window_days": DAYS}
    spec = CohortSpec.model_validate(
        {
            "name": "benchmark",
            "subjects": {"table": "records.parquet", "id": "patient_id"},
            "prediction_time": {"table": "records.parquet", "column": "seen", "resolution": "second"},
            "biomarkers": {
                "table": "results.parquet",
                "columns": {"code": "code", "value": "value", "unit": "unit", "time": "taken"},
                "results": {
                    f"lab{n}": result | {"code": f"LAB{n:02}", "summary": list(SUMMARIES)}
                    for n in range(CODES)
                },
            },
        }
    )
    cohort = link.link(spec, folder, key=b"k" * 32)
    rows = (patient.sources["biomarkers"] for patient in cohort.patients[::1000])
    return sum(row[f"lab{n}:last"].value or 0.0 for row in rows for n in range(CODES))  # type: ignore[index,union-attr]


def bare(folder: Path, *, memory_mb: int = MEMORY_MB) -> float:
    """DuckDB's query alone: numbers as they stand, no account of anything."""
    import duckdb

    with duckdb.connect(
        config={"memory_limit": f"{memory_mb}MB", "threads": 2, "temp_directory": str(folder)}
    ) as c:
        c.execute("SET preserve_insertion_order = false")
        found = c.sql(
            f"""SELECT r.patient_id, code, arg_max(value, taken) AS last, max(taken) AS as_of,
            min(value) AS low,
            max(value) AS high, avg(value) AS mean, count(*) AS n FROM '{folder}/results.parquet' e
            JOIN '{folder}/records.parquet' r USING (patient_id)
            WHERE taken <= seen AND taken >= seen - INTERVAL {DAYS} DAY GROUP BY ALL"""
        ).to_arrow_reader(1_000_000)  # a result of 40 million groups is never held whole
        return sum(_sampled(part) for part in found)


def large(folder: Path) -> float:
    """The bare query with memory for more groups than the usual limit holds."""
    return bare(folder, memory_mb=3072)


def _sampled(part: Any) -> float:
    """Return the sum of the last results of every thousandth patient of a batch, without a Python loop."""
    import pyarrow.compute as pc

    chosen = pc.equal(pc.utf8_slice_codeunits(part.column("patient_id"), -3), "000")
    return float(pc.sum(pc.filter(part.column("last"), chosen)).as_py() or 0.0)


def pandas(folder: Path) -> float:
    """Merge, filter, sort, group."""
    import pandas as pd

    rows = pd.read_parquet(folder / "results.parquet", columns=["patient_id", "code", "value", "taken"])
    rows = rows.merge(pd.read_parquet(folder / "records.parquet"), on="patient_id")
    rows = rows[(rows.taken <= rows.seen) & (rows.taken >= rows.seen - pd.Timedelta(days=DAYS))]
    found = rows.sort_values("taken").groupby(["patient_id", "code"]).value.agg(list(SUMMARIES)).reset_index()
    return float(found["last"][found.patient_id.str[1:].astype(int) % 1000 == 0].sum())


def measure(what: str, folder: Path) -> dict[str, float]:
    """Run one contender in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.join_20m", what, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def in_turns(contenders: Sequence[str], folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Run the contenders one after the other, round by round, and print what each took."""
    runs: dict[str, list[dict[str, float]]] = {what: [] for what in contenders}
    for _ in range(rounds):
        for what in contenders:
            runs[what].append(measure(what, folder))
            print(f"{what}: {runs[what][-1]}", file=sys.stderr)
    found = {
        what: {
            "cpu_s": statistics.median(run["cpu_s"] for run in some),
            "peak_mb": max(run["peak_mb"] for run in some),
            "checksum": some[0]["checksum"],
        }
        for what, some in runs.items()
    }
    for what, figures in found.items():
        print(f"{what:7} {figures['cpu_s']:6.1f} CPU-s {figures['peak_mb']:7.0f} MB  {figures['checksum']}")
    (rival,) = (what for what in contenders if what.startswith("bare"))
    print(f"medmm / DuckDB's bare query {found['medmm']['cpu_s'] / found[rival]['cpu_s']:.2f}")
    return found


def run(contender: str, folder: Path) -> None:
    start = time.process_time()
    contenders = {"medmm": medmm, "bare": bare, "bare in 3 GB": large, "pandas": pandas}
    total = contenders[contender](folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "cpu_s": time.process_time() - start,
                "peak_mb": used.ru_maxrss / 1024,
                "checksum": round(total, 3),
            }
        )
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="medmm-join-") as scratch:
        generate(Path(scratch), ROWS, PATIENTS)
        found = in_turns(("bare", "medmm", "pandas"), Path(scratch), ROUNDS)
    ratio = found["medmm"]["cpu_s"] / found["bare"]["cpu_s"]
    to_pandas = found["medmm"]["cpu_s"] / found["pandas"]["cpu_s"]
    print(f"medmm / pandas {to_pandas:.2f}")
    print(f"limits: {LIMIT_RATIO} of the bare query, 1 of pandas, {LIMIT_MB} MB")
    if abs(found["medmm"]["checksum"] - found["bare"]["checksum"]) > 0.01:
        sys.exit("the results differ")
    if ratio > LIMIT_RATIO or to_pandas > 1 or found["medmm"]["peak_mb"] > LIMIT_MB:
        sys.exit("outside the limits")


if __name__ == "__main__":
    main() if len(sys.argv) == 1 else run(sys.argv[1], Path(sys.argv[2]))
