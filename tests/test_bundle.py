from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medmm import bundle
from medmm.columns import FieldSpec, Value
from medmm.errors import BundleError, OutputError
from medmm.modalities.records import Records
from medmm.modalities.tables import TableSettings


def write(folder: Path) -> None:
    with bundle.writing(folder) as place:
        bundle.write_json(place / "bundle.json", {"name": "x"})
        (place / "encoders").mkdir()
        (place / "encoders" / "ct.onnx").write_bytes(b"graph")


def test_a_bundle_as_written_verifies(tmp_path):
    write(tmp_path / "bundle")
    assert bundle.verify(tmp_path / "bundle") == bundle.verify(tmp_path / "bundle")


@pytest.mark.parametrize("damage", ["changed", "added", "missing", "renamed"])
def test_a_damaged_bundle_is_refused_by_name(tmp_path, damage):
    folder = tmp_path / "bundle"
    write(folder)
    graph = folder / "encoders" / "ct.onnx"
    if damage == "changed":
        graph.write_bytes(b"grapH")
    elif damage == "added":
        (folder / "encoders" / "extra.onnx").write_bytes(b"")
    elif damage == "missing":
        graph.unlink()
    else:
        graph.rename(folder / "encoders" / "mr.onnx")
    with pytest.raises(BundleError, match=r"encoders/.*\.onnx"):
        bundle.verify(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.load(tmp_path)


def test_a_killed_writer_leaves_nothing(tmp_path):
    def killed() -> None:
        with bundle.writing(tmp_path / "bundle") as place:
            (place / "bundle.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write a bundle"):
        write(tmp_path / "file" / "bundle")


def test_json_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        bundle.write_json(tmp_path / "metrics.json", {"auroc": float("nan")})


def test_another_schema_is_refused(tmp_path):
    with bundle.writing(tmp_path / "bundle") as place:
        for name in ("bundle", "preprocess", "calibration", "metrics"):
            (place / f"{name}.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(BundleError, match="another version of medmm"):
        bundle.load(tmp_path / "bundle")


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from medmm import bundle\n"
        "with bundle.writing(Path(sys.argv[1]) / 'bundle') as place:\n"
        "    (place / 'bundle.json').write_text('{}'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.startswith(".bundle-") for path in tmp_path.iterdir()] == [True]
    write(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo"])
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    folder = tmp_path / "bundle"
    write(folder)
    odd = folder / "encoders" / "mr.onnx"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "link":
        odd.symlink_to(folder / "encoders" / "ct.onnx")
    else:
        odd.symlink_to(tmp_path)
    with pytest.raises(BundleError, match=r"encoders/mr\.onnx"):
        bundle.verify(folder)


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    write(folder)
    graph = folder / "encoders" / "ct.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"encoders/ct\.onnx"):
        bundle.verify(folder)


def test_the_columns_of_a_table_come_back_in_the_order_in_which_they_were_learned(tmp_path):
    fields = {name: FieldSpec(role="input", kind="number") for name in ("weight", "age", "height")}
    row = {name: Value(float(place)) for place, name in enumerate(fields)}
    fitted = Records("records", TableSettings(), fields).fit([row, {name: Value(9.0) for name in fields}])
    bundle.write_json(tmp_path / "preprocess.json", bundle.preprocess_json({"records": fitted}))
    read = bundle._restore("records", json.loads((tmp_path / "preprocess.json").read_text())["records"])
    assert [player.name for player in read.players()] == ["weight", "age", "height"]
    assert np.array_equal(read.transform(row), fitted.transform(row))
