from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from medmm.errors import BundleError, DataError
from medmm.runtime import Runtime


def graph(inputs: dict[str, int], output: str, width: int | None, op: str) -> onnx.ModelProto:
    """A graph that sums, or scales, its inputs: [batch, n] each."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", w]) for n, w in inputs.items()]
    shape = ["batch"] if width is None else ["batch", width]
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    if op == "add":
        nodes = [helper.make_node("Add", [n, n], [output]) for n in inputs]
        kept: list[onnx.TensorProto] = []
    else:
        nodes = [helper.make_node("ReduceSum", [n, "axes"], [f"{n}_sum"], keepdims=0) for n in inputs]
        nodes.append(helper.make_node("Sum", [f"{n}_sum" for n in inputs], [output]))
        kept = [axes]
    made = helper.make_graph(nodes, "g", values, [out], initializer=kept)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "encoders").mkdir()
    for name, width in (("scan", 2), ("records", 3)):
        onnx.save(graph({name: width}, "embedding", width, "add"), tmp_path / "encoders" / f"{name}.onnx")
    onnx.save(graph({"scan": 2, "records": 3, "present": 2}, "logit", None, "sum"), tmp_path / "fusion.onnx")
    return tmp_path


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def test_a_logit_is_the_fusion_of_the_encodings_of_what_is_present(folder: Path) -> None:
    runtime = Runtime(folder)
    assert runtime.names == ("scan", "records")
    assert runtime.widths == {"scan": 2, "records": 3}
    assert runtime.logit({"scan": vector(1, 2), "records": vector(1, 1, 1)}) == 2 * 3 + 2 * 3 + 2
    assert runtime.logit({"records": vector(1, 1, 1)}) == 2 * 3 + 1
    assert runtime.logit({}) == 0


def test_only_the_encoders_that_are_needed_are_read(folder: Path) -> None:
    (folder / "encoders" / "scan.onnx").unlink()
    runtime = Runtime(folder)
    assert runtime.logit({"records": vector(1, 1, 1)}) == 7
    with pytest.raises(BundleError, match=r"cannot read scan\.onnx"):
        runtime.logit({"scan": vector(1, 2)})


def test_an_empty_batch_is_an_empty_answer(folder: Path) -> None:
    runtime = Runtime(folder)
    encoded = runtime.encode("scan", np.zeros((0, 2), np.float32))
    assert encoded.shape == (0, 2)
    embeddings = {"scan": encoded, "records": np.zeros((0, 3), np.float32)}
    assert runtime.fuse(embeddings, np.zeros((0, 2), bool)).shape == (0,)


def test_inputs_that_do_not_fit_are_refused(folder: Path) -> None:
    runtime = Runtime(folder)
    with pytest.raises(DataError, match="takes \\(2,\\)"):
        runtime.logit({"scan": vector(1, 2, 3)})
    with pytest.raises(DataError, match="not finite"):
        runtime.logit({"scan": vector(1, np.nan)})
    for call in (lambda: runtime.logit({"x": vector(1)}), lambda: runtime.encode("x", vector(1)[None])):
        with pytest.raises(DataError, match="no modality 'x'"):
            call()


def test_a_damaged_graph_is_refused(folder: Path) -> None:
    path = folder / "fusion.onnx"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(BundleError, match=r"fusion\.onnx"):
        Runtime(folder).logit({})


def test_a_logit_that_is_not_finite_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="no finite logit"):
        Runtime(folder).logit({"scan": vector(3e38, 3e38)})


def test_scoring_imports_neither_torch_nor_any_other_heavy_package() -> None:
    code = (
        "import sys, medmm.runtime, onnxruntime, medmm.modalities.image, medmm.modalities.records,"
        " medmm.modalities.biomarkers\n"
        "heavy = {'torch', 'monai', 'mlflow', 'shap', 'sklearn', 'scipy', 'pandas', 'pint', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
