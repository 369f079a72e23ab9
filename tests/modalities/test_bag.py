"""A bag of images per patient: prepared, encoded, exported, trained and explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from medmm.cli import app
from medmm.columns import ImageSpec
from medmm.encoders.bag import BagEncoder
from medmm.errors import ConfigError, DataError, DicomRefusal
from medmm.modalities.bag import Bag, BagSettings
from medmm.modalities.image import Image, ImageSettings
from medmm.network.export import export
from medmm.network.network import build
from medmm.runtime import Runtime
from medmm.sample import SeriesSource
from tests.dicom.conftest import Scanner

ALL = ImageSpec(dir="dicom", choose="all")
DX = "1.2.840.10008.5.1.4.1.1.1.1"
FLAT = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path / "dicom")


def bag(**settings: Any) -> Bag:
    block = {"shape": (16, 16), "spacing_mm": "fit", "window": (0, 100), "images": 4, "attention": 8}
    encoder = {"encoder": {"channels": [4, 8]}}
    return Bag("views", BagSettings.model_validate(block | encoder | settings), ALL)


def radiograph(scanner: Scanner, pixels: np.ndarray, **elements: Any) -> Path:
    elements.setdefault("SeriesInstanceUID", generate_uid())
    return scanner.save(
        scanner.dataset(
            pixels.astype(np.uint16), SOPClassUID=DX, Modality="DX", RescaleIntercept=0, **FLAT, **elements
        ),
        f"{generate_uid()[-12:]}.dcm",
    )


def serial(scanner: Scanner, count: int, **elements: Any) -> SeriesSource:
    """One radiograph a day; every pixel of the image of day n is 10 n."""
    paths = [
        radiograph(
            scanner, np.full((8, 6 + day), 10 * day), AcquisitionDate=f"202401{day + 1:02d}", **elements
        )
        for day in range(1, count + 1)
    ]
    return SeriesSource(tuple(paths))


def test_a_bag_is_filled_in_the_order_of_acquisition_and_the_rest_is_empty(scanner: Scanner) -> None:
    block = bag()
    loaded = block.load(serial(scanner, 3))
    out = block.transform(loaded)
    assert out.shape == block.shape == (4, 1, 16, 16)
    assert [round(float(image.max()), 2) for image in out] == [0.1, 0.2, 0.3, 0.0]
    assert block.warnings(loaded) == ()
    assert (
        loaded.certificate.sha256 == block.load(SeriesSource(block_files(scanner)[::-1])).certificate.sha256
    )


def block_files(scanner: Scanner) -> tuple[Path, ...]:
    return tuple(sorted(scanner.folder.iterdir()))


def test_of_too_many_images_the_last_are_taken_and_blank_ones_leave_no_place(scanner: Scanner) -> None:
    source = serial(scanner, 6)
    blank = radiograph(scanner, np.zeros((8, 8)), AcquisitionDate="20240220")
    (scanner.folder / "note.txt").write_text("no DICOM")
    loaded = bag().load(SeriesSource((*source.files, blank, scanner.folder / "note.txt")))
    out = bag().transform(loaded)
    assert [round(float(image.max()), 2) for image in out] == [0.3, 0.4, 0.5, 0.6]
    assert bag().warnings(loaded) == (
        "views: 3 earlier images are not looked at",
        "views: 1 files or series could not be read as 2-D images",
    )
    with pytest.raises(DicomRefusal, match="every image is blank"):
        bag().transform(bag().load(SeriesSource((blank,))))


def test_volumes_are_no_pictures(scanner: Scanner) -> None:
    stack = scanner.stack()
    with pytest.raises(DicomRefusal):
        bag().load(SeriesSource(tuple(stack)))
    (one,) = serial(scanner, 1).files
    assert bag().transform(bag().load(SeriesSource((*stack, one))))[0].any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shape": (16, 16, 16)}, "shape"),
        ({"images": 0}, "images"),
        ({"images": 256, "shape": (8192, 8192)}, "take fewer"),
        ({"mask": {"use": "crop"}}, "single series"),
        ({"resample": True}, "single series"),
        ({"encoder": {"pretrained": {"file": "x"}}}, "single image"),
    ],
)
def test_settings_that_no_bag_can_have(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        bag(**settings)


def test_a_bag_needs_a_cohort_that_chooses_all() -> None:
    with pytest.raises(ConfigError, match="choose: all"):
        Bag("views", BagSettings(shape=(32, 32)), ImageSpec(dir="dicom"))
    with pytest.raises(ConfigError, match="kind 'bag'"):
        Image("views", ImageSettings(shape=(32, 32)), ALL)


def test_more_images_than_memory_holds_are_refused(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmm.dicom import bag as loading

    source = serial(scanner, 3)
    monkeypatch.setattr(loading, "MAX_VOLUME_BYTES", 400)
    with pytest.raises(DicomRefusal, match="resource_limit"):
        bag().load(source)


def random_bags(count: int, places: int = 4, filled: int = 3) -> torch.Tensor:
    made = torch.rand(count, places, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    made[:, filled:] = 0
    return made


def encoder(**settings: Any) -> BagEncoder:
    torch.manual_seed(0)
    made = bag(**settings).encoder().eval()
    assert isinstance(made, BagEncoder)
    return made


def test_the_order_of_images_and_empty_places_play_no_part() -> None:
    network, bags = encoder(), random_bags(3)
    expected = network(bags)
    assert expected.shape == (3, 8)
    assert torch.allclose(network(bags[:, [2, 0, 1, 3]]), expected, atol=1e-6)
    assert torch.allclose(network(bags[:, :3]), expected, atol=1e-6)
    assert torch.allclose(network(torch.cat([bags, torch.zeros_like(bags)], dim=1)), expected, atol=1e-6)
    weights = network.attention(bags)
    assert torch.allclose(weights.sum(dim=1), torch.ones(3))
    assert not weights[:, 3].any()
    assert (weights[:, :3] > 0).all()
    assert torch.isfinite(network(torch.zeros(1, 4, 1, 16, 16))).all()


def test_attention_is_that_of_the_paper() -> None:
    network, bags = encoder(), random_bags(1)
    h = network.image(bags[0, :3])
    scores = network.score(torch.tanh(network.content(h)) * torch.sigmoid(network.gate(h))).squeeze(-1)
    assert torch.allclose(network(bags)[0], torch.softmax(scores, 0) @ h, atol=1e-6)


def test_an_augmented_bag_varies_each_image_and_keeps_empty_places_empty() -> None:
    bags = random_bags(2)
    block = bag(augment={"flip": ["column"], "shift_voxels": 2, "noise": 0.1})
    varied = block.augment(bags, torch.Generator().manual_seed(0))
    assert varied.shape == bags.shape
    assert not varied[:, 3].any()
    assert (varied[:, :3] != bags[:, :3]).any()


def test_the_graph_is_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build({"views": bag()}, "concat").eval()
    export(network, {"views": bag().shape}, tmp_path)
    runtime = Runtime(tmp_path)
    bags = random_bags(5, filled=2)
    expected = network.encode("views", bags).detach().numpy()
    assert runtime.encode("views", bags.numpy()) == pytest.approx(expected, abs=1e-5)
    assert runtime.encode("views", bags.numpy(), together=True) == pytest.approx(expected, abs=1e-5)
    assert runtime.encode("views", bags[:, :2].numpy()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="the network takes"):
        runtime.encode("views", bags[..., :8].numpy())
    with pytest.raises(DataError, match="the network takes"):
        runtime.encode("views", bags[0].numpy())


COHORT = """
name: serial
deidentification: Made by a generator.
subjects: {table: people.csv, id: id}
prediction_time: {table: people.csv, column: day, resolution: day}
outcomes: {ill: {table: people.csv, id: id, column: ill, positive: 1}}
records: {table: people.csv, fields: {age: {role: input, kind: number, unit: a}, ill: {role: outcome}}}
images: {views: {dir: dicom, modality: DX, choose: all, label: Radiographs}}
splits: {folds: 2}
"""
RECIPE = """
name: serial
question: Is the patient ill?
intended_use: A test.
cohort: .
outcome: ill
modalities:
  views:
    kind: bag
    shape: [16, 16]
    spacing_mm: fit
    window: [0, 100]
    images: 3
    attention: 8
    encoder: {channels: [4, 8]}
  records: {kind: records}
fitting: {epochs: 2}
"""


def write_cohort(folder: Path, patients: int = 48) -> None:
    """Patients with one to four radiographs; the ill have one bright image among them; some have none."""
    rng = np.random.default_rng(0)
    scanner = Scanner(folder / "dicom")
    rows = ["id,day,age,ill"]
    for number in range(patients):
        ill = number % 2
        rows.append(f"p{number:02d},2024-03-01,{rng.integers(40, 80)},{ill}")
        for view in range(0 if number % 12 == 0 else 1 + number % 4):
            bright = 60 if ill and view == 0 else 20
            pixels = rng.normal(bright, 4, (12, 12)).clip(1, 100)
            radiograph(
                scanner,
                pixels,
                PatientID=f"p{number:02d}",
                StudyInstanceUID=f"1.2.{number + 1}",
                StudyDate=f"202402{view + 1:02d}",
            )
    (folder / "people.csv").write_text("\n".join(rows) + "\n")
    (folder / "cohort.yaml").write_text(COHORT)
    (folder / "recipe.yaml").write_text(RECIPE)


def run(*arguments: object) -> str:
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.slow
def test_a_cohort_of_bags_trains_scores_and_explains(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    run("train", tmp_path, "--root", tmp_path, "--runs", tmp_path / "runs", "--dry-run")
    run("train", tmp_path, "--root", tmp_path, "--runs", tmp_path / "runs", "--smoke")
    (bundle,) = tmp_path.glob("runs/serial-*/bundle")
    text = run(
        "score", bundle, "--cohort", tmp_path, "--root", tmp_path, "--patient", "p01", "--patient", "p12"
    )
    assert '"views": "used"' in text
    assert '"views": "no_series"' in text
    out = tmp_path / "reports"
    run("explain", bundle, "--cohort", tmp_path, "--root", tmp_path, "--patient", "p03", "--out", out)
    (page,) = out.glob("*.html")
    text = page.read_text()
    shares = re.search(r"attention by image, oldest first: ([\d%, ]+)", text)
    assert shares
    assert sum(int(share.strip(" %")) for share in shares[1].split(",")) == pytest.approx(100, abs=2)
