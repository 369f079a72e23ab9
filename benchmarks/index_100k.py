"""The index of a folder of 100,000 DICOM files: memory per file, and what the second scan opens.

The claims: at most 1 KB (1000 bytes) of memory per file, measured as the growth of a fresh process's peak;
the second scan opens no unchanged file, and one of a folder in which ten files changed opens ten.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ingest_ct import write_series

FILES, PER_SERIES = 100_000, 100
CLAIMED_BYTES = 1000
ACQUISITION_TIME = b"\x08\x00\x32\x00TM\x0a\x00"
"""Where the value of AcquisitionTime begins."""
SCAN = """
import sys, time
from pathlib import Path
from medmm.dicom import scan
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
root, cache = map(Path, sys.argv[1:3])
scan(root / "warm")
before, started, calls = peak(), time.process_time(), []
index = scan(root, cache=cache, progress=lambda done, of: calls.append(done))
assert calls[-1] == len(index.files)
print(len(index.files), len(index.series), index.opened, peak() - before, time.process_time() - started)
"""


def main() -> None:
    """Measure and print; exit 1 when a claim does not hold."""
    with tempfile.TemporaryDirectory() as place:
        root, cache = Path(place) / "archive", Path(place) / "index.json"
        started = time.perf_counter()
        write_archive(root)
        print(f"{FILES} files written in {time.perf_counter() - started:.0f} s")
        first, second = scanned(root, cache), scanned(root, cache)
        for file in sorted((root / "00000").iterdir())[:10]:
            os.utime(file)
        third = scanned(root, cache)
    good = True
    for name, (files, series, opened, grown, seconds), claimed in (
        ("first scan", first, FILES + 1),
        ("second", second, 0),
        ("ten changed", third, 10),
    ):
        print(
            f"  {name:<12} {files:.0f} files, {series:.0f} series, {opened:.0f} opened, {seconds:.1f} CPU-s",
            end="",
        )
        print(f", {grown / files:.0f} bytes of memory per file")
        good &= opened == claimed and grown / files <= CLAIMED_BYTES
    verdict = "holds" if good else "DOES NOT HOLD"
    print(f"at most {CLAIMED_BYTES} bytes per file, unchanged files not opened: {verdict}")
    if not good:
        sys.exit(1)


def scanned(root: Path, cache: Path) -> list[float]:
    """Scan in a fresh process; return files, series, opened, bytes of memory and CPU seconds."""
    command = [sys.executable, "-c", SCAN, str(root), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(value) for value in done.stdout.split()]


def write_archive(root: Path) -> None:
    """Write one small CT per hundred files; UIDs, patient and acquisition time differ."""
    root.mkdir()
    template = write_series(root / "template", 1, 16, seed=0)
    data = next(template.iterdir()).read_bytes()
    shutil.copytree(template, root / "warm")
    shutil.rmtree(template)
    series = identifiers(data)
    for number in range(FILES // PER_SERIES):
        folder = root / f"{number:05d}"
        folder.mkdir()
        own = data.replace(b"P000000", f"P{number:06d}".encode())
        for uid in series:
            own = own.replace(uid, uid[:-5] + f"{number:05d}".encode())
        at = own.index(ACQUISITION_TIME) + len(ACQUISITION_TIME)
        for slice_number in range(PER_SERIES):
            acquired = f"10{slice_number // 60:02d}{slice_number % 60:02d}".encode()
            content = own[:at] + acquired + own[at + len(acquired) :]
            (folder / f"IM{slice_number:04d}").write_bytes(content)


def identifiers(data: bytes) -> list[bytes]:
    """Return the StudyInstanceUID and SeriesInstanceUID as they stand in the file."""
    import io

    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    return [str(dataset.StudyInstanceUID).encode(), str(dataset.SeriesInstanceUID).encode()]


if __name__ == "__main__":
    main()
