"""What cannot be fitted is refused, and what is odd is said, before the first epoch: by `train --dry-run`."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medmm.encoders.image import image_encoder
from tests.conftest import Said

pytestmark = pytest.mark.xdist_group("bad_modalities")

RECIPE = """
name: odd
question: Will this patient deteriorate?
intended_use: A test.
cohort: data
outcome: deterioration
modalities:
  {block}
fitting: {{epochs: 1, batch_size: {batch}}}
"""
IMAGE = "radiograph: {{kind: image, shape: [{side}, {side}], spacing_mm: fit, encoder: {encoder}}}"

Rows = list[dict[str, str]]


@pytest.fixture
def rehearse(door: Callable[..., Said], written: Path, tmp_path: Path) -> Callable[..., Said]:
    """Rehearse a recipe on a copy of the small cohort, one of whose tables is changed; nothing is run."""
    shutil.copytree(written, tmp_path / "data", ignore=shutil.ignore_patterns("dicom"))
    shutil.copytree(written / "dicom", tmp_path / "data" / "dicom", copy_function=os.link)

    def run(
        block: str, *, batch: int = 16, table: str = "", change: Callable[[Rows], Rows] | None = None
    ) -> Said:
        if change:
            file = tmp_path / "data" / table
            with file.open(newline="") as stream:
                rows = change(list(csv.DictReader(stream)))
            with file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(block=block, batch=batch))
        done = door("train", tmp_path, "--root", tmp_path / "data", "--runs", tmp_path / "runs", "--dry-run")
        assert not list((tmp_path / "runs").glob("odd-*-*")), "a dry run makes no run"
        return done

    return run


def assert_refused(done: Said, code: int, *words: str) -> None:
    line = " ".join(done.err.split())
    assert done.code == code, done.out + done.err
    assert "Traceback" not in line
    for word in words:
        assert word in line, line


def with_value(**cells: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row | cells for row in rows]


def test_a_modality_that_nobody_has(rehearse: Callable[..., Said]) -> None:
    blank = with_value(collected_at="2030-01-01 00:00:00", available_at="2030-01-01 00:00:00")
    done = rehearse("series: {kind: series}", table="biomarkers.csv", change=blank)
    assert_refused(done, 9, "series is absent for all", "no_results", "leave it out of the recipe")


def test_notes_that_nobody_has(rehearse: Callable[..., Said]) -> None:
    done = rehearse("notes: {kind: notes}", table="notes.csv", change=with_value(text=""))
    assert_refused(done, 9, "notes is absent for all", "no_notes")


def test_a_constant_field_is_said_and_stays(rehearse: Callable[..., Said]) -> None:
    done = rehearse("records: {kind: records}", table="records.csv", change=with_value(diabetes="no"))
    assert done.code == 0, done.err
    assert "records: Diabetes is the same for every training patient" in " ".join(done.out.split())
    assert "Age is the same" not in done.out


def test_a_class_of_two_patients(rehearse: Callable[..., Said]) -> None:
    def two(rows: Rows) -> Rows:
        return [row | {"deterioration": str(int(place % 30 == 0))} for place, row in enumerate(rows)]

    assert_refused(
        rehearse("records: {kind: records}", table="labels.csv", change=two), 5, "has 2 subjects for 3 folds"
    )


def test_a_modality_that_only_one_class_has(rehearse: Callable[..., Said], written: Path) -> None:
    with (written / "labels.csv").open(newline="") as stream:
        ill = {row["patient_id"] for row in csv.DictReader(stream) if row["deterioration"] == "1"}

    def of_the_well(rows: Rows) -> Rows:
        return [row for row in rows if row["patient_id"] not in ill]

    done = rehearse("notes: {kind: notes, min_patients: 2}", table="notes.csv", change=of_the_well)
    assert_refused(done, 9, "notes: without fold 1, 0 of", "in the smallest class", "leave it out")


def test_a_batch_of_one_is_a_batch(rehearse: Callable[..., Said]) -> None:
    block = "series: {kind: series, length: 3}\n  records: {kind: records}"
    done = rehearse(block, batch=1)
    assert done.code == 0, done.err
    assert "series" in done.out


@pytest.mark.parametrize(
    ("side", "encoder", "words"),
    [
        (8, "{kind: cnn, channels: [4, 4, 4, 4]}", "shrinks each axis 16 times"),
        (16, "{kind: swin}", "shrinks each axis 32 times"),
        (40, "{kind: vit}", "`patch` 16 divides"),
        (16, "{kind: cnn, channels: [4, 4, 4, 4]}", "which group norm turns to 0"),
    ],
)
def test_an_image_smaller_than_the_stride(
    rehearse: Callable[..., Said], side: int, encoder: str, words: str
) -> None:
    assert_refused(rehearse(IMAGE.format(side=side, encoder=encoder)), 4, "radiograph", words)


def test_pretrained_weights_of_another_shape(rehearse: Callable[..., Said], tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(4, 6), dropout=0.0)
    save_file(other.state_dict(), tmp_path / "weights.safetensors")
    encoder = "{kind: cnn, channels: [4, 8], pretrained: {file: weights.safetensors}}"
    assert_refused(rehearse(IMAGE.format(side=16, encoder=encoder)), 4, "features.1", "has shape (6,")
    encoder = "{kind: cnn, channels: [4, 8], pretrained: {file: missing.safetensors}}"
    assert_refused(
        rehearse(IMAGE.format(side=16, encoder=encoder)), 4, "missing.safetensors", "cannot be read"
    )


def test_pretrained_weights_of_the_right_shape_are_taken(
    rehearse: Callable[..., Said], tmp_path: Path
) -> None:
    other = image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(4, 8), dropout=0.0)
    save_file(other.state_dict(), tmp_path / "weights.safetensors")
    encoder = "{kind: cnn, channels: [4, 8], pretrained: {file: weights.safetensors}}"
    done = rehearse(IMAGE.format(side=16, encoder=encoder))
    assert done.code == 0, done.err
    (sheet,) = (tmp_path / "runs").glob("*.png")  # patients are on it
    assert [place.stat().st_mode & 0o077 for place in (sheet, sheet.parent)] == [0, 0]


def test_too_many_results_a_patient(rehearse: Callable[..., Said]) -> None:
    assert_refused(rehearse("series: {kind: series, length: 200}"), 4, "a sequence holds 512")


def test_words_that_too_few_patients_share(rehearse: Callable[..., Said]) -> None:
    assert_refused(
        rehearse("notes: {kind: notes, min_patients: 5000}"), 9, "no word occurs in the notes of 5000"
    )
