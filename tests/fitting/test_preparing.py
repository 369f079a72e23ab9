"""Images prepared in workers: the same on one core and on two, and a patient whose worker dies is absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from medmm.columns import ImageSpec
from medmm.dicom import parallel
from medmm.dicom.parallel import each_bounded
from medmm.dicom.volume import Volume
from medmm.fitting.inputs import prepare_images
from medmm.fitting.preparing import lost, prepare_one
from medmm.modalities.image import Image, ImageSettings
from medmm.sample import Absence, SeriesSource, Source
from tests.dicom.conftest import Scanner
from tests.dicom.test_bounded import write

KEY = b"k" * 32


def image() -> Image:
    settings = ImageSettings.model_validate({"shape": (4, 4, 4), "encoder": {"channels": [2]}})
    return Image("ct", settings, ImageSpec(dir="dicom"))


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path / "dicom")


def series(scanner: Scanner, count: int) -> list[SeriesSource | Absence]:
    found: list[SeriesSource | Absence] = []
    for _ in range(count):
        scanner.series = generate_uid()
        files = tuple(scanner.slice(float(z)) for z in range(5))
        found.append(SeriesSource(files, pseudonym=scanner.series[-16:]))
    return found


def test_workers_give_what_one_process_gives_in_the_order_of_the_patients(
    scanner: Scanner, tmp_path: Path
) -> None:
    sources = [*series(scanner, 3), Absence("no_series"), *series(scanner, 2)]
    gap = SeriesSource(tuple(scanner.slice(z) for z in (100.0, 101.0, 103.0)), pseudonym="gap")
    sources.append(SeriesSource((*sources[-1].files, *gap.files), pseudonym="gap"))
    work = partial(prepare_one, image(), KEY)
    alone = [work(source) for source in sources]
    together = list(each_bounded(work, sources, lost=partial(lost, image(), KEY), processes=2))
    for one, other in zip(alone, together, strict=True):
        assert (one.reason, one.certificates) == (other.reason, other.certificates)
        assert np.array_equal(one.values, other.values)
    prepared = prepare_images(image(), sources, tmp_path / "cache")
    assert prepared.absent == ("", "", "", "no_series", "", "", "missing_slices")
    assert prepared.row_of.tolist() == [0, 1, 2, -1, 3, 4, -1]
    assert [row["status"] for row in prepared.certificates] == ["used"] * 5 + ["refused"]
    again = prepare_images(image(), sources, tmp_path / "cache")
    assert again.certificates == prepared.certificates


def test_a_patient_whose_worker_dies_is_absent_with_the_reason(
    scanner: Scanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = series(scanner, 2)
    scanner.series = generate_uid()
    hostile = SeriesSource(tuple(write(scanner, 512, float(z)) for z in range(12)), pseudonym="hostile")
    monkeypatch.setattr(parallel, "WORK_SECONDS", 2.0)
    prepared = prepare_images(image(), [good[0], hostile, good[1]], tmp_path / "cache")
    assert prepared.absent == ("", "resource_limit", "")
    assert [(row["series"], row["files_refused"]) for row in prepared.certificates][1] == ("hostile", 12)


class Dying(Image):
    """An image whose worker is killed over one series, as by a machine without memory."""

    def load(self, source: Source) -> Volume:
        assert isinstance(source, SeriesSource)
        folder = source.files[0].parent
        with (folder / f"{source.pseudonym}.loads").open("a") as log:
            log.write(".")
        if source.pseudonym == "big" and (folder / "no_memory").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(source)


def test_a_patient_whose_worker_died_is_tried_again_by_the_next_run_and_nobody_else(
    scanner: Scanner, tmp_path: Path
) -> None:
    found = series(scanner, 3)
    files = [one.files for one in found if isinstance(one, SeriesSource)]
    sources = [SeriesSource(f, pseudonym=name) for f, name in zip(files, ("a", "big", "c"), strict=True)]
    plain = image()
    modality = Dying("ct", plain.settings, plain.declaration)
    marker, cache = scanner.folder / "no_memory", tmp_path / "cache"

    def loads() -> dict[str, int]:
        return {one.stem: len(one.read_text()) for one in scanner.folder.glob("*.loads")}

    marker.touch()
    first = prepare_images(modality, sources, cache)
    before = loads()
    assert (first.absent, first.row_of.tolist()) == (("", "resource_limit", ""), [0, -1, 1])
    assert prepare_images(modality, sources, cache).absent == first.absent
    assert loads() == before | {"big": before["big"] + 2}  # once beside others that may come, once alone
    marker.unlink()
    whole = prepare_images(modality, sources, cache)
    assert (whole.absent, whole.row_of.tolist()) == (("", "", ""), [0, 1, 2])
    assert [row["status"] for row in whole.certificates] == ["used"] * 3
    assert np.array_equal(whole.array[[0, 2]], first.array)
    assert loads() == before | {"big": before["big"] + 3}
    assert np.array_equal(prepare_images(modality, sources, cache).array, whole.array)
    assert loads() == before | {"big": before["big"] + 3}


def test_a_script_without_a_guard_is_not_run_again_in_the_workers(scanner: Scanner, tmp_path: Path) -> None:
    files = [str(path) for path in series(scanner, 1)[0].files]
    script = tmp_path / "script.py"
    script.write_text(
        "print('ran')\n"
        "from pathlib import Path\n"
        "from medmm.columns import ImageSpec\n"
        "from medmm.fitting.inputs import prepare_images\n"
        "from medmm.modalities.image import Image, ImageSettings\n"
        "from medmm.sample import SeriesSource\n"
        f"source = SeriesSource(tuple(map(Path, {files!r})))\n"
        "settings = ImageSettings(shape=(4, 4, 4), encoder={'channels': (2,)})\n"
        "image = Image('ct', settings, ImageSpec(dir='x'))\n"
        f"print(prepare_images(image, [source] * 3, Path({str(tmp_path)!r})).absent)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["ran", "('', '', '')"]
