"""Encoders that stay as they are: what they make of every patient is computed once.

Without augmentation a frozen encoder gives the same vector in every epoch, so the loop sees the vectors in
place of the images. They are kept beside the fits, named by the weights and the inputs that they came from;
folds, and the fits of the modality alone and of the joint network, share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from torch import Tensor, nn

from medmm.arrays import Array, Float32, Ints
from medmm.fitting.inputs import Prepared
from medmm.fitting.job import Job
from medmm.fitting.memory import in_batches
from medmm.fitting.predicting import BATCH, placed
from medmm.network.forms import width
from medmm.network.heads import Unimodal
from medmm.network.network import Network

FOLDER = "embeddings"


class Ready(nn.Module):
    """Stands where an encoder stood whose vectors are the input.

    Args:
        out_features: width of a vector.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the vectors ``[batch, out_features]``."""
        return vectors


@contextmanager
def lightened(job: Job, work: Path, device: torch.device) -> Iterator[Job]:
    """Yield the job with its frozen encoders still, and replaced where their vectors say all.

    On leaving the network is whole again, and its parameters can be fitted as before.

    Args:
        work: folder of this run; vectors are kept under ``embeddings``.
        device: where the encoders run.
    """
    encoders = {name: _encoder(job.network, name) for name in job.frozen}
    fitted = [p for module in encoders.values() for p in module.parameters() if p.requires_grad]
    for parameter in fitted:
        parameter.requires_grad_(False)
    replaced: dict[str, Prepared] = {}
    try:
        for name, module in encoders.items():
            if name in job.augment:
                continue
            entry = job.inputs.prepared[name]
            replaced[name] = replace(entry, array=_embedded(module, entry.array, work / FOLDER, device))
            _put(job.network, name, Ready(width(module)))
        yield replace(job, inputs=job.inputs.replace(replaced))
    finally:
        for name, module in encoders.items():
            _put(job.network, name, module)
        for parameter in fitted:
            parameter.requires_grad_(True)


def still(job: Job) -> None:
    """Switch off the dropout and the running means of frozen encoders that are run in every step."""
    for name in job.frozen:
        _encoder(job.network, name).eval()


def _encoder(network: Network, name: str) -> nn.Module:
    """Return a modality's encoder, without the head of a network of its own."""
    encoder = network.encoders[name]
    return encoder.encoder if isinstance(encoder, Unimodal) else encoder


def _put(network: Network, name: str, module: nn.Module) -> None:
    encoder = network.encoders[name]
    if isinstance(encoder, Unimodal):
        encoder.encoder = module
    else:
        network.encoders[name] = module


def _embedded(encoder: nn.Module, array: Array, folder: Path, device: torch.device) -> Float32:
    """Return the vector of every stored input, ``[stored, width]``, from the folder or into it."""
    file = folder / f"{_digest(encoder.state_dict(), array)}.npy"
    try:
        found: Float32 = np.load(file, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        found = _run(encoder, array, device)
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as partial:
            np.save(partial, found)
        Path(partial.name).replace(file)
    return found


@torch.no_grad()
def _run(encoder: nn.Module, array: Array, device: torch.device) -> Float32:
    encoder.to(device).eval()

    def vectors(rows: Ints) -> Float32:
        images = placed(torch.from_numpy(np.asarray(array[rows], np.float32)), device)
        found: Float32 = encoder(images).cpu().numpy()
        return found

    parts = in_batches(vectors, np.arange(len(array)), BATCH)
    encoder.cpu()
    return np.concatenate(parts) if parts else np.zeros((0, width(encoder)), np.float32)


def _digest(state: Mapping[str, Tensor], array: Array) -> str:
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    for name, tensor in state.items():
        digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    for at in range(0, len(array), BATCH):
        digest.update(np.ascontiguousarray(array[at : at + BATCH]).tobytes())
    return digest.hexdigest()[:32]
