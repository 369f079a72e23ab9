from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from medmm.bundle import MANIFEST
from medmm.columns import FieldSpec, ImageSpec
from medmm.errors import BundleError, ConfigError
from medmm.fitting.pretraining.beginning import check, lesson_for
from medmm.fitting.pretraining.bundle import load, save
from medmm.fitting.pretraining.loop import pretrain
from tests.fitting.pretraining.small_pretraining import FIELDS, problem, recipe

IMAGE = ImageSpec(dir="dicom", modality="CT")
EVERYBODY = np.arange(64)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Pretrained encoders, to be read; with the weights and modalities that went in."""
    work = tmp_path_factory.mktemp("pretrained")
    given = problem(work, recipe(settings={"epochs": 1}))
    modalities, inputs = given.fitted(EVERYBODY)
    lesson = lesson_for(given, EVERYBODY, "pretraining", modalities, inputs)
    weights, history = pretrain(lesson, work)
    settings = given.recipe.pretraining
    told = {"patients": len(lesson.pool), "cohort_digest": "c0"}
    sha256 = save(work / "out", settings, modalities, weights, history, **told)
    return work / "out", sha256, weights, modalities


def built(fields=FIELDS, image=IMAGE, **changes):
    return recipe(**changes).build({"ct": image, "records": fields})


def test_what_was_written_is_read_back_and_begins_a_run(written, tmp_path) -> None:
    folder, sha256, weights, modalities = written
    found = load(folder, built())
    assert (found.sha256, found.patients, found.objective) == (sha256, 56, "contrastive")
    assert found.cohort_digest == "c0"
    assert found.modalities["records"].state() == modalities["records"].state()
    for name, tensors in weights.items():
        assert all(torch.equal(tensor, found.weights[name][key]) for key, tensor in tensors.items())
    given = problem(tmp_path, recipe(pretrained="out"), patients=32, pretrained=found)
    some = np.arange(32)
    fitted, inputs = given.fitted(some)
    assert fitted["records"].state() == modalities["records"].state()  # not that of the 32
    notice = check(given, fitted, inputs)
    assert sha256[:12] in notice[0]
    assert "inputs of test folds were among them" in notice[0]


def test_nothing_in_it_is_pickled_and_no_patient_is(written) -> None:
    folder, *_ = written
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["ct.safetensors", MANIFEST, "pretrained.json", "records.safetensors"]
    assert "0000000000000001" not in (folder / "pretrained.json").read_text()


def test_other_columns_are_refused_by_name(written) -> None:
    folder, *_ = written
    fewer = {name: spec for name, spec in FIELDS.items() if name != "pulse"}
    more = FIELDS | {"weight": FieldSpec(role="input", kind="number")}
    other = FIELDS | {"age": FieldSpec(role="input", kind="number", unit="mo")}
    turned = dict(reversed(FIELDS.items()))
    cases = [
        (fewer, "records: it lacks pulse"),
        (more, "records: it has besides weight"),
        (other, "records: it declares otherwise age"),
        (turned, "in another order, from fever on"),
    ]
    for fields, words in cases:
        with pytest.raises(ConfigError) as refused:
            load(folder, built(fields))
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)


def test_another_image_is_refused_by_setting(written) -> None:
    folder, *_ = written
    blocks = recipe().modalities
    wider = blocks | {"ct": blocks["ct"] | {"shape": [16, 8]}}
    with pytest.raises(ConfigError, match=r"ct: shape is \[16, 8\], was \[8, 8\]"):
        load(folder, built(modalities=wider))
    labels = ImageSpec(dir="dicom", modality="CT", kind="label_map", labels=(1, 2))
    still = blocks["ct"] | {"augment": {}}
    with pytest.raises(ConfigError, match="declares otherwise its pixels"):
        load(folder, built(image=labels, modalities=blocks | {"ct": still}))
    dropped = blocks | {"ct": still | {"encoder": {**blocks["ct"]["encoder"], "dropout": 0.4}}}
    assert load(folder, built(modalities=dropped)).weights.keys() == {"ct", "records"}


def test_a_changed_byte_a_foreign_folder_and_other_modalities_are_refused(written, tmp_path) -> None:
    folder, *_ = written
    bad = shutil.copytree(folder, tmp_path / "bad")
    with (bad / "ct.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)[0]
        stream.seek(-1, 2)
        stream.write(bytes([last ^ 1]))
    with pytest.raises(BundleError, match=r"ct\.safetensors changed"):
        load(bad, built())
    with pytest.raises(BundleError, match="has no manifest"):
        load(tmp_path, built())
    only = recipe(modalities={"other": {"kind": "records"}}).build({"other": FIELDS})
    with pytest.raises(ConfigError, match="encoders of ct, records, and the recipe has none"):
        load(folder, only)
    assert json.loads((folder / "pretrained.json").read_text())["schema_version"] == 2
