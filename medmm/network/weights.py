"""A network's parameters on disk, as safetensors: numbers only, nothing that could run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from medmm.errors import BundleError


def save_weights(network: nn.Module, path: Path, *, without: Sequence[str] = ()) -> None:
    """Write every parameter and buffer of a network, whole or not at all.

    Args:
        without: prefixes of the names that are left out, since they lie in another file.

    Raises:
        BundleError: if a parameter is not finite.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
        if not name.startswith(tuple(without))
    }
    _refuse_non_finite(tensors)
    handle, temporary = tempfile.mkstemp(prefix=".weights-", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_weights(network: nn.Module, path: Path, *, also: Mapping[str, Path] | None = None) -> None:
    """Read a network's parameters and buffers in place.

    Args:
        also: per prefix that was left out of ``path``, the file that its names are read from.

    Raises:
        BundleError: if the file is missing or damaged, or does not hold exactly this network's tensors,
            all finite.
    """
    tensors = _read(path)
    for prefix, file in (also or {}).items():
        tensors |= {name: tensor for name, tensor in _read(file).items() if name.startswith(prefix)}
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise BundleError(
            f"the weights {path.name} are of another network:"
            f" missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise BundleError(
                f"the weights {path.name} are of another network: {name} has another shape or type"
            )
    _refuse_non_finite(tensors)
    network.load_state_dict(tensors)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"cannot read the weights {path.name}: {error}") from error
    return tensors


def _refuse_non_finite(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BundleError(f"the weights of {name} are not finite")
