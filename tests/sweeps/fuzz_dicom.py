"""Mutated DICOM against every door of the loader: ``python -m tests.sweeps.fuzz_dicom --inputs 20000``.

Every input must end in a result or a typed refusal. Workers are bounded in memory and time, and an audit
hook sees every file that is opened for writing. A failure prints its number: ``--only N`` repeats it.
The seeds are generated here; the corpus of awkward files joins them where it is present (MEDMM_SHARED).
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import os
import platform
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom

from tests.sweeps.seeds_dicom import write_reference, write_seeds

MEMORY_BYTES = 6 << 30
"""Address space of a worker; an array at the loader's own limit would need more than this machine gives."""
CASE_SECONDS = 30
LONGEST_SEED = 300_000
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TEXTS = (b"", b"0", b"-1", b"1e308", b"nan", b"inf", b"1_0", b"../../x", b"\0" * 8, b"<script>", b"\\" * 9)
KEYWORDS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "SamplesPerPixel",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "PixelSpacing",
    "ImagePositionPatient",
    "RescaleIntercept",
    "ImageOrientationPatient",
    "RescaleSlope",
    "SOPClassUID",
    "TransferSyntaxUID",
    "Modality",
    "SliceThickness",
    "SpecificCharacterSet",
    "SegmentNumber",
    "ReferencedSegmentNumber",
    "ContourData",
    "NumberOfWaveformChannels",
    "NumberOfWaveformSamples",
    "WaveformBitsAllocated",
    "ChannelSensitivity",
    "ImageType",
    "SpacingBetweenSlices",
]


def main() -> int:
    """Run the inputs and print the figures; return 1 where one did not end as it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        own, others = write_seeds(Path(folder) / "seeds"), corpus_seeds()
        print(f"{len(own)} seeds generated, {len(others)} of the corpus")
        # Half of the inputs come from either.
        seeds = own * max(len(others) // len(own), 1) + others
        numbers = range(options.inputs) if options.only is None else range(options.only, options.only + 1)
        outcomes, faults, peak = run(seeds, numbers, options.seed, options.processes, Path(folder))
    done = sum(outcomes.values())
    for outcome, count in outcomes.most_common():
        print(f"{count:>8}  {outcome}")
    for fault in faults[:20]:
        print(fault)
    seconds = time.perf_counter() - started
    print(
        f"{done} inputs, {len(faults)} faults, {seconds:.0f} s, workers at most {peak >> 20} MiB,"
        f" {platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    return bool(faults) or done != len(numbers)


def run(
    seeds: list[Path], numbers: range, seed: int, processes: int, folder: Path
) -> tuple[Counter[str], list[str], int]:
    """Share the inputs among workers; one that dies is a fault, and another goes on after its input."""
    reference = folder / "reference"
    write_reference(reference)
    lanes = [Lane(list(numbers[n::processes]), folder / f"lane{n}") for n in range(processes)]
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    peak = 0
    while any(lane.left for lane in lanes):
        for lane in lanes:
            for number, outcome, fault, memory in lane.reports(seeds, seed, reference):
                outcomes[outcome] += 1
                peak = max(peak, memory)
                if fault:
                    faults.append(f"input {number}: {fault}")
    return outcomes, faults, peak


class Lane:
    """A worker, and the inputs it has still to read."""

    context = multiprocessing.get_context("forkserver")

    def __init__(self, left: list[int], place: Path) -> None:
        self.left, self.place = left, place
        self.process: Any = None
        self.pipe: Any = None

    def reports(self, seeds: list[Path], seed: int, reference: Path) -> Iterator[tuple[int, str, str, int]]:
        """Yield (number, outcome, fault, memory) of what is done, starting the worker where there is none."""
        if self.left and self.process is None:
            self.pipe, theirs = self.context.Pipe(duplex=False)
            arguments = (seeds, self.left, seed, self.place, reference, theirs)
            self.process = self.context.Process(target=work, args=arguments)
            self.process.start()
            theirs.close()
        try:
            while self.left and self.pipe.poll(0.05):
                yield (self.left[0], *self.pipe.recv())
                del self.left[0]
        except EOFError:
            self.process.join()
            yield self.left.pop(0), "worker died", f"the worker died ({self.process.exitcode})", 0
            self.process = None


def work(seeds: list[Path], numbers: list[int], seed: int, place: Path, reference: Path, pipe: Any) -> None:
    """Read the inputs of one lane within bounds, and report each."""
    from medmm.dicom import load

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    place.mkdir(exist_ok=True)
    os.chdir(place)
    target = place / "input.dcm"
    volume = load(reference)
    written: list[str] = []
    sys.addaudithook(lambda event, arguments: watch(event, arguments, target, written))
    warnings.simplefilter("error")
    contents = {path: path.read_bytes() for path in seeds}
    for number in numbers:
        dice = random.Random(f"{seed}:{number}")
        path = dice.choice(seeds)
        target.write_bytes(mutated(contents[path], dice))
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        outcome, fault = read(target, volume)
        faulthandler.cancel_dump_traceback_later()
        if written or sorted(place.iterdir()) != [target]:
            outcome, fault = "wrote a file", f"wrote {written}"
            written.clear()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((outcome, fault and f"{fault} [seed {path.name}]", memory))


def watch(event: str, arguments: tuple[Any, ...], target: Path, written: list[str]) -> None:
    """Note every write, anywhere, but the input's own."""
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and os.fspath(path) not in (os.fspath(target), os.devnull):
            written.append(repr(path))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "shutil.copyfile"):
        written.append(event)


def read(path: Path, volume: Any) -> tuple[str, str]:
    """Send one input through every door; return its outcome and, where there is one, its fault."""
    from medmm.dicom import load, load_bag, load_mask, load_series, mask_reference, suv_factor
    from medmm.errors import DicomRefusal

    outcome = "loaded"
    doors = (
        load,
        lambda file: load(file, resample=True),
        lambda file: [result.certificate for result in load_series(file)],
        mask_reference,
        lambda file: load_mask(file, volume),
        lambda file: load_bag([file]),
        suv_factor,
    )
    for number, door in enumerate(doors):
        try:
            door(path)
        except DicomRefusal as refusal:
            outcome = f"refused: {refusal.reason}" if number == 0 else outcome
        except BaseException as error:
            trace = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(trace.filename).name}:{trace.lineno}"
            return "untyped", f"door {number}: {type(error).__name__}: {str(error)[:120]} at {where}"
    return outcome, ""


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return one to three mutations of a file: bytes, numbers, values of known elements, cuts and copies."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        if len(changed) > 16:
            dice.choice(MUTATIONS)(changed, dice)
    return bytes(changed)


def flip(data: bytearray, dice: random.Random) -> None:
    """Flip some bits, mostly near the start, where headers are."""
    for _ in range(dice.randint(1, 8)):
        data[place(data, dice)] ^= 1 << dice.randrange(8)


def number(data: bytearray, dice: random.Random) -> None:
    """Overwrite two or four bytes with a number at the edge of something."""
    value, at = dice.choice(INTERESTING), place(data, dice)
    code = dice.choice(("<I", ">I", "<H", ">H"))
    packed = struct.pack(code, value & (0xFFFF if code[1] == "H" else 0xFFFFFFFF))
    data[at : at + len(packed)] = packed


def cut(data: bytearray, dice: random.Random) -> None:
    """Drop the end, or a piece."""
    at = place(data, dice)
    del data[at : len(data) if dice.random() < 0.5 else at + dice.randint(1, 64)]


def copy(data: bytearray, dice: random.Random) -> None:
    """Repeat a piece somewhere else."""
    at, length = place(data, dice), dice.randint(1, 256)
    spot = place(data, dice)
    data[spot:spot] = data[at : at + length]


def element(data: bytearray, dice: random.Random) -> None:
    """Give a known element another value, of any length and kind."""
    tag = pydicom.datadict.tag_for_keyword(dice.choice(KEYWORDS))
    assert tag is not None
    found = data.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    if found < 0 or found + 8 > len(data):
        return
    start = found + 8
    if dice.random() < 0.3:
        data[found + 4 : found + 8] = dice.randbytes(2) + struct.pack("<H", dice.choice((0, 2, 6, 65534)))
    elif dice.random() < 0.5:
        length = struct.unpack_from("<H", data, found + 6)[0] % 64
        value = dice.choice(TEXTS)[:length].ljust(length)
        data[start : start + length] = value
    else:
        data[start : start + 2] = struct.pack("<H", dice.choice(INTERESTING) & 0xFFFF)


MUTATIONS = (flip, number, number, cut, copy, element, element, element)


def place(data: bytearray, dice: random.Random) -> int:
    """Return an offset: in the first 4 KiB two times of three."""
    return dice.randrange(min(len(data), 4096) if dice.random() < 0.67 else len(data))


def corpus_seeds() -> list[Path]:
    """Return the corpus's files, where it is present and they are small."""
    shared = Path(os.environ.get("MEDMM_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    files = sorted((shared / "dicom_corpus" / "visible").rglob("*"))
    return [file for file in files if file.is_file() and file.stat().st_size <= LONGEST_SEED]


if __name__ == "__main__":
    sys.exit(main())
