"""The network through ONNX Runtime: what scores patients, without torch.

The logit of :meth:`Runtime.logit` is the record: one patient at a time on one thread, so that it is the
same alone and in a cohort, in any order, to the last bit (on one type of processor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmm.errors import BundleError, DataError

if TYPE_CHECKING:
    from medmm.arrays import Bools, Float32, Float64

MAX_GRAPH_BYTES = 1 << 30
"""A graph larger than this is not read."""


class Runtime:
    """The encoders and the fusion of a bundle; encoders are loaded when first needed.

    Args:
        folder: holds ``fusion.onnx`` and ``encoders/<name>.onnx`` (:mod:`medmm.network.export`).
        shared: per modality whose encoder is another runtime's, that one.

    Raises:
        BundleError: if a graph is missing or damaged.
    """

    def __init__(self, folder: Path, *, shared: Mapping[str, Runtime] | None = None) -> None:
        self._folder = folder
        self._shared = dict(shared or {})
        self._encoders: dict[str, Any] = {}

    @cached_property
    def _fusion(self) -> Any:
        return _session(self._folder / "fusion.onnx")

    @cached_property
    def widths(self) -> dict[str, int]:
        """Width of each modality's embedding, in the order of the columns of ``present``."""
        return {x.name: x.shape[1] for x in self._fusion.get_inputs() if x.name != "present"}

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of the columns of ``present``."""
        return tuple(self.widths)

    def encode(self, name: str, x: Float32, *, together: bool = False) -> Float32:
        """Return the embeddings ``[batch, width]`` of one modality's inputs.

        Args:
            name: the modality.
            x: ``[batch, *shape]``, finite.
            together: run the rows as one batch, which is many times faster for vectors and equal only
                to within rounding; for the coalitions of an explanation, not for a score.

        Raises:
            DataError: if the input is not what the encoder takes.
        """
        session = self._encoder(name)
        shape = tuple(session.get_inputs()[0].shape[1:])
        # an axis with a name is free: the images of a bag
        if len(x.shape) != len(shape) + 1 or any(
            isinstance(wanted, int) and wanted != given
            for wanted, given in zip(shape, x.shape[1:], strict=True)
        ):
            raise DataError(f"modality {name!r} has inputs {x.shape[1:]}; the network takes {shape}")
        if not np.isfinite(x).all():
            raise DataError(f"modality {name!r} has an input that is not finite")
        embeddings: Float32 = _rows(lambda part: session.run(None, part)[0], {name: x}, together=together)
        return embeddings.reshape(len(x), self.widths[name])

    def fuse(self, embeddings: Mapping[str, Float32], present: Bools, *, together: bool = False) -> Float64:
        """Return logits ``[batch]``, or ``[batch, output]`` where there are several, before calibration.

        Args:
            embeddings: ``[batch, width]`` per modality; finite and otherwise arbitrary where absent.
            present: ``[batch, modality]``, whether the patient has it.
            together: as in :meth:`encode`.
        """
        feeds = {name: np.ascontiguousarray(embeddings[name], np.float32) for name in self.names}
        feeds["present"] = np.ascontiguousarray(present, np.float32)
        logits: Float32 = _rows(lambda part: self._fusion.run(None, part)[0], feeds, together=together)
        several = logits.ndim > 1 and logits.shape[1] > 1
        return (logits if several else logits.reshape(len(present))).astype(np.float64)

    def logit(self, inputs: Mapping[str, Float32]) -> float:
        """Return one patient's logit, before calibration.

        Args:
            inputs: ``[*shape]`` per modality that the patient has; an absent one has no key.

        Raises:
            DataError: if an input is not what its encoder takes, or belongs to no encoder.
            BundleError: if the network gives no finite logit.
        """
        unknown = sorted(inputs.keys() - self.widths.keys())
        if unknown:
            raise DataError(f"the network has no modality {unknown[0]!r}; it has {', '.join(self.names)}")
        embeddings = {
            name: self.encode(name, inputs[name][None])
            if name in inputs
            else np.zeros((1, width), np.float32)
            for name, width in self.widths.items()
        }
        present = np.array([[name in inputs for name in self.names]])
        logit = float(self.fuse(embeddings, present)[0])
        if not np.isfinite(logit):
            raise BundleError("the network gives no finite logit; the bundle is damaged")
        return logit

    def _encoder(self, name: str) -> Any:
        if name not in self.widths:
            raise DataError(f"the network has no modality {name!r}; it has {', '.join(self.names)}")
        if name in self._shared:
            return self._shared[name]._encoder(name)
        if name not in self._encoders:
            self._encoders[name] = _session(self._folder / "encoders" / f"{name}.onnx")
        return self._encoders[name]


def _rows(run: Callable[[dict[str, Any]], Any], feeds: dict[str, Any], *, together: bool) -> Any:
    """Run a graph over rows: one by one, unless they may run together."""
    count = len(next(iter(feeds.values())))
    if together or count == 1:
        return run(feeds)
    # Matrix products may sum in another order when the batch has another size.
    parts = [run({name: x[i : i + 1] for name, x in feeds.items()}) for i in range(count)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _session(path: Path) -> Any:
    """Open a graph from its bytes, so that it cannot name other files to be read."""
    import onnxruntime

    try:
        if path.stat().st_size > MAX_GRAPH_BYTES:
            raise BundleError(f"{path.name} is larger than any network of medmm; it is not read")
        graph = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path.name} of the bundle: {error.strerror}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        raise BundleError(f"{path.name} of the bundle is damaged, or no network: {error}") from error
