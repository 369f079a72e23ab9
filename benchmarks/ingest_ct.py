"""First ingest of raw CT: CPU seconds of medmm beside MONAI's PydicomReader and SimpleITK's series reader.

The claims: at least 2.5 times as fast as MONAI, and ahead of SimpleITK. Each reads the same folders, one
series after the other in one thread, into a float32 array in HU; medmm checks every rule of its loader
meanwhile. In turn, in one run, page cache warm. SimpleITK is optional: where it cannot be imported the
script says so.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

ROUNDS = 7
CLAIMED_MONAI = 2.5
CLAIMED_SIMPLEITK = 1.0
SIZES = ((8, 32, 128), (2, 48, 512))
"""(series, slices, pixels a side): small ones, where the header counts, and whole ones, where pixels do."""

Reader = Callable[[Path], np.ndarray]


def main() -> None:
    """Measure and print; exit 1 when a claim does not hold."""
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    readers: dict[str, Reader] = {"medmm": medmm, "MONAI PydicomReader": monai_reader()}
    if importlib.util.find_spec("SimpleITK"):
        readers["SimpleITK"] = simpleitk
    else:
        print("SimpleITK is not installed here: not compared")
    failed = False
    for series, slices, side in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folders = [write_series(Path(place) / f"{n}", slices, side, seed=n) for n in range(series)]
            agree(readers, folders[0])
            seconds = in_turn({name: all_of(reader, folders) for name, reader in readers.items()})
        megabytes = series * slices * side * side * 2 / 1e6
        print(f"{series} series of {slices} slices, {side} x {side}:")
        for name, times in seconds.items():
            print(f"  {name:<20} {median(times):.3f} CPU-s  {megabytes / median(times):>6.0f} MB per CPU-s")
        failed |= not holds(seconds, "MONAI PydicomReader", CLAIMED_MONAI)
        if "SimpleITK" in seconds:
            failed |= not holds(seconds, "SimpleITK", CLAIMED_SIMPLEITK)
    if failed:
        sys.exit(1)


def medmm(folder: Path) -> np.ndarray:
    """Read a series as medmm does."""
    from medmm.dicom import load

    return load(folder).array.astype(np.float32)


def monai_reader() -> Reader:
    """Return MONAI's reader of a folder."""
    from monai.data import PydicomReader
    from monai.transforms import LoadImage

    loader = LoadImage(reader=PydicomReader(), image_only=True)
    return lambda folder: loader(folder).numpy().astype(np.float32, copy=False)


def simpleitk(folder: Path) -> np.ndarray:
    """Read a series as SimpleITK's series reader does, in one thread."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute()).astype(np.float32)


def all_of(reader: Reader, folders: Sequence[Path]) -> Callable[[], None]:
    """Return a job that reads every folder and keeps nothing."""

    def job() -> None:
        for folder in folders:
            reader(folder)

    return job


def agree(readers: dict[str, Reader], folder: Path) -> None:
    """Exit when the readers do not return the same values, whatever their axes."""
    arrays = {name: np.sort(reader(folder), axis=None) for name, reader in readers.items()}
    first = arrays.pop("medmm")
    for name, array in arrays.items():
        if not np.array_equal(first, array):
            sys.exit(f"medmm and {name} do not read the same values")


def in_turn(jobs: dict[str, Callable[[], None]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return the CPU seconds of each job in every round, child processes included; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            before = cpu_seconds()
            job()
            if turn:
                seconds[name].append(cpu_seconds() - before)
    return seconds


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that run now or have ended."""
    total = time.process_time()
    times = os.times()
    total += times.children_user + times.children_system
    ticks = os.sysconf("SC_CLK_TCK")
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def holds(seconds: dict[str, list[float]], peer: str, claimed: float) -> bool:
    """Print how many times faster than a peer medmm is; return whether that is what is claimed."""
    ratio = median(theirs / ours for ours, theirs in zip(seconds["medmm"], seconds[peer], strict=True))
    verdict = "holds" if ratio >= claimed else "DOES NOT HOLD"
    print(f"  {ratio:.2f} times as fast as {peer}, claimed at least {claimed}: {verdict}")
    return ratio >= claimed


def write_series(folder: Path, slices: int, side: int, *, seed: int, jpeg2000: bool = False) -> Path:
    """Write an axial CT with the elements that scanners write, file names against the order of slices."""
    folder.mkdir()
    dice = np.random.default_rng(seed)
    study, series, frame = (generate_uid(entropy_srcs=[f"{seed}", what]) for what in "abc")
    v, u = np.mgrid[:side, :side] / side - 0.5
    body = np.where((u / 0.45) ** 2 + (v / 0.42) ** 2 < 1, 1064, 24)
    for number in range(slices):
        pixels = (body + dice.normal(0, 15, (side, side))).clip(0, 3000).astype(np.int16)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=[f"{seed}", f"{number}"])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (
            study,
            series,
            frame,
        )
        dataset.update(_scanner_elements(number))
        dataset.PatientID = f"P{seed:06d}"
        dataset.Rows = dataset.Columns = side
        dataset.PixelSpacing = [360 / side, 360 / side]
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        if jpeg2000:
            dataset.compress(JPEG2000Lossless, arr=pixels, generate_instance_uid=False)
        dataset.save_as(folder / f"IM{(number * 7) % slices:04d}{number:04d}.dcm", enforce_file_format=True)
    return folder


def _scanner_elements(number: int) -> Dataset:
    """Return the elements of a CT slice that do not concern its pixels' size."""
    made = Dataset()
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "20240115"),
        **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), "101530.000"),
        **{"Modality": "CT", "Manufacturer": "ACME", "InstitutionName": "General", "StationName": "S1"},
        **{"StudyDescription": "Chest", "SeriesDescription": "Chest 5.0", "ManufacturerModelName": "M1"},
        **{"PatientName": "A^B", "PatientBirthDate": "19600101", "PatientSex": "M", "PatientAge": "064Y"},
        **{"BodyPartExamined": "CHEST", "SliceThickness": 5, "KVP": 120, "ProtocolName": "Chest"},
        **{"XRayTubeCurrent": 200, "Exposure": 100, "ExposureTime": 500, "PatientPosition": "HFS"},
        **{"GantryDetectorTilt": 0, "TableHeight": 150, "ConvolutionKernel": "B30", "SeriesNumber": 2},
        **{"AcquisitionNumber": 1, "InstanceNumber": number + 1, "SliceLocation": 5.0 * number},
        "ImagePositionPatient": [-180, -180, 5.0 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 1},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "WindowCenter": 40, "WindowWidth": 400},
        **{"RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU"},
    }
    for keyword, value in values.items():
        setattr(made, keyword, value)
    block = made.private_block(0x0019, "ACME 1.0", create=True)
    for index in range(8):
        block.add_new(index, "LO", f"private value {index}")
    return made


if __name__ == "__main__":
    main()
