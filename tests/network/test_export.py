from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from medmm.encoders.image import image_encoder
from medmm.encoders.mlp import TableEncoder
from medmm.errors import BundleError, ConfigError
from medmm.network.export import export, export_fusion
from medmm.network.fusion import FUSIONS, LATE, Given, fusion
from medmm.network.network import Ensemble, Network
from medmm.runtime import Runtime

SHAPES = {"scan": (2, 8, 8, 8), "records": (5,)}


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    scan = image_encoder("cnn", spatial_dims=3, in_channels=2, channels=(4, 8), dropout=0.1)
    return Network({"scan": scan, "records": TableEncoder(5, (6,), 0.1)}, fusion("concat", [8, 6]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, dict[str, tuple[int, ...]], Path]:
    folder = tmp_path_factory.mktemp("exported")
    joined = Ensemble.of([network(0), network(1)], {"records": (5, 5)})
    shapes = SHAPES | {"records": (10,)}
    joined.train()
    export(joined, shapes, folder)
    assert joined.training
    return joined.eval(), shapes, folder


@pytest.mark.parametrize("pattern", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_the_graphs_give_the_logit_of_torch(exported, pattern: tuple[int, int]) -> None:
    joined, shapes, folder = exported
    runtime = Runtime(folder)
    x = {n: torch.randn(3, *s, generator=torch.Generator().manual_seed(4)) for n, s in shapes.items()}
    with torch.no_grad():
        expected = joined(x, torch.tensor([pattern] * 3))
    held = [n for n, here in zip(runtime.names, pattern, strict=True) if here]
    given = [runtime.logit({n: x[n][i].numpy() for n in held}) for i in range(3)]
    assert given == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_fusion_exports_and_gives_the_logit_of_torch(kind: str, tmp_path: Path) -> None:
    takes = FUSIONS[kind].takes
    given: list[int | Given] = [1, 1] if kind in LATE else [8, 6]
    if "map" in takes:
        given[0] = Given("map", (4, 4, 4, 2), image_encoder_block(), 6)
    if "tokens" in takes:
        given[1] = Given("tokens", (3, 5))
    torch.manual_seed(0)
    joined = fusion(kind, given).eval()
    names = ("scan", "records")
    encoders = {name: nn.Linear(1, width) for name, width in zip(names, joined.widths, strict=True)}
    export_fusion(Network(encoders, joined), tmp_path)
    rng = np.random.default_rng(0)
    present = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [0, 1], [1, 0]], bool)
    embeddings = [rng.normal(size=(7, width)).astype(np.float32) for width in joined.widths]
    with torch.no_grad():
        expected = joined([torch.from_numpy(e) for e in embeddings], torch.from_numpy(present).float())
    for together in (False, True):
        found = Runtime(tmp_path).fuse(dict(zip(names, embeddings, strict=True)), present, together=together)
        assert found == pytest.approx(expected.numpy(), abs=1e-5)


def image_encoder_block() -> nn.Module:
    return nn.Sequential(nn.Conv3d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU())


def test_a_batch_gives_each_patient_the_logit_of_the_patient_alone(exported) -> None:
    _, shapes, folder = exported
    runtime = Runtime(folder)
    rng = np.random.default_rng(1)
    x = {n: rng.normal(size=(9, *s)).astype(np.float32) for n, s in shapes.items()}
    present = np.ones((9, 2), bool)
    embeddings = {n: runtime.encode(n, x[n]) for n in runtime.names}
    logits = runtime.fuse(embeddings, present)
    assert logits.dtype == np.float64
    assert logits.tolist() == [runtime.logit({n: v[i] for n, v in x.items()}) for i in range(9)]
    together = runtime.fuse({n: runtime.encode(n, x[n], together=True) for n in x}, present, together=True)
    assert together == pytest.approx(logits, abs=1e-5)


def test_the_graphs_carry_no_trace_of_the_machine(exported) -> None:
    _, _, folder = exported
    for path in (folder / "fusion.onnx", folder / "encoders" / "scan.onnx"):
        onnx.checker.check_model(onnx.load(path))
        data = path.read_bytes()
        assert b"/" + Path(__file__).parts[1].encode() not in data
        assert b".py" not in data


def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path) -> None:
    joined = network(0)
    joined.names = ("../scan", "records")
    with pytest.raises(ConfigError, match="cannot name a file"):
        export(joined, SHAPES, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_from_torch_is_refused(tmp_path: Path) -> None:
    class Restless(nn.Module):
        out_features = 6

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x[:, :1].expand(-1, 6) + self.calls

    encoders = {"records": Restless()}
    with pytest.raises(BundleError, match="'records' cannot be exported"):
        export(Network(encoders, fusion("concat", [6])), SHAPES, tmp_path)
