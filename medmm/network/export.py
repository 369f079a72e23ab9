"""A trained network as ONNX graphs: one per encoder and one for the fusion, each with a free batch.

The graphs are what scores patients; torch, with the same weights, only draws image gradients. So an
export that does not give the logits of torch is refused here and never reaches a bundle.
"""

from __future__ import annotations

import copy
import logging
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from medmm.encoders.bag import BAG_AXES, BagEncoder
from medmm.errors import BundleError, ConfigError
from medmm.network.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = 1e-5
"""Largest difference between torch and the graphs, relative above 1."""

ROWS = 5
"""Random rows on which torch and the graphs are compared."""

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""What a modality's name must look like to be a file name, and an input's name, on any system."""


class _Positional(nn.Module):
    """The fusion with one positional input per embedding, as a graph has it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.fusion = network.fusion

    def forward(self, *tensors: Tensor) -> Tensor:
        logit: Tensor = self.fusion(list(tensors[:-1]), tensors[-1])
        return logit


def export(
    network: Network,
    shapes: Mapping[str, Sequence[int]],
    into: Path,
    *,
    encoders: Sequence[str] | None = None,
) -> None:
    """Write ``encoders/<name>.onnx`` and ``fusion.onnx``, and check them against torch.

    The fusion's inputs are one embedding per modality, by name, and ``present``, float
    ``[batch, modality]`` in that order.

    Args:
        network: the network; it is not changed.
        shapes: shape of each modality's input, without the batch.
        into: an existing folder.
        encoders: whose graphs are written; without it, all. The others lie elsewhere.

    Raises:
        ConfigError: if a modality's name cannot be a file name.
        BundleError: if the graphs differ from torch by more than :data:`TOLERANCE`.
    """
    for name in network.names:
        if not SLUG.fullmatch(name) or name == "present":
            raise ConfigError(f"modality {name!r} cannot name a file; use a-z, 0-9, _ and -")
    frozen = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    (into / "encoders").mkdir(exist_ok=True)
    for name in frozen.names if encoders is None else encoders:
        inputs = {name: torch.randn(ROWS, *shapes[name], generator=generator)}
        graph = _checked(frozen.encoders[name], inputs, "embedding", f"the encoder of modality {name!r}")
        (into / "encoders" / f"{name}.onnx").write_bytes(graph)
    export_fusion(frozen, into)


def export_fusion(network: Network, into: Path) -> None:
    """Write ``fusion.onnx`` alone; see :func:`export`."""
    frozen = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(ROWS, width, generator=generator) for name, width in frozen.widths.items()}
    inputs["present"] = torch.randint(0, 2, (ROWS, len(frozen.names)), generator=generator).float()
    graph = _checked(_Positional(frozen), inputs, "logit", "the fusion")
    (into / "fusion.onnx").write_bytes(graph)


def _checked(module: nn.Module, inputs: Mapping[str, Tensor], output: str, what: str) -> bytes:
    """Return the graph of a module, or refuse one that differs from it."""
    graph = graph_of(module, inputs, output)
    gap = disagreement(module, graph, inputs)
    if not gap <= TOLERANCE:
        raise BundleError(
            f"{what} cannot be exported: its graph differs from torch by {gap:.1g},"
            f" and {TOLERANCE:g} is allowed"
        )
    return graph


def graph_of(module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> bytes:
    """Return the serialised graph of a module, without the traces of the machine it was made on."""
    free = tuple({0: torch.export.Dim("batch")} | _places(module, x) for x in inputs.values())
    variadic = isinstance(module, _Positional)
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(torch.zeros_like(x) for x in inputs.values()),
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=(free,) if variadic else free,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter writes stack traces with the paths of this machine into every node.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def _places(module: nn.Module, x: Tensor) -> dict[int, torch.export.Dim]:
    """Return the axis of a bag's images, which is as free as the batch."""
    bag = any(isinstance(part, BagEncoder) for part in module.modules())
    return {1: torch.export.Dim("images")} if bag and x.ndim == BAG_AXES and x.shape[1] > 1 else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it warns of its own deprecations and of torchvision, which is not used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def disagreement(module: nn.Module, graph: bytes, inputs: Mapping[str, Tensor]) -> float:
    """Return the largest difference of a graph from its module, relative above 1, in a batch and alone.

    It is infinite where even the shapes differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    gaps = []
    for count in (ROWS, 1):
        part = {name: x[:count] for name, x in inputs.items()}
        expected = module(*part.values())
        given = torch.from_numpy(session.run(None, {name: x.numpy() for name, x in part.items()})[0])
        if given.shape != expected.shape:
            return math.inf
        gaps.append(float(((given - expected).abs() / expected.abs().clamp(min=1)).max()))
    return float(np.max(gaps))  # NaN where one is: it is no agreement
