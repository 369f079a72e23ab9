"""Weights trained elsewhere, from a local safetensors file: numbers only, nothing that could run.

A file may hold an encoder's tensors by medmm's names, as a bundle's ``weights.safetensors`` has them, or by
the names of the published network (:attr:`medmm.encoders.image.ImageEncoder.published_as`). The tensors of a
classification head are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from medmm.errors import ConfigError

HEADS = ("fc.", "_fc.", "class_layers.", "classification_head.", "head.", "classifier.")
"""How the names of a classification head begin in MONAI's networks and in torchvision's."""

WRAPPERS = ("module.", "model.", "encoder.")
"""What training scripts put before every name; taken off where all names begin with it."""


def load_pretrained(encoder: nn.Module, file: Path, *, strict: bool = True) -> list[str]:
    """Read an encoder's weights in place; return the names of its tensors that stay as they were.

    Args:
        encoder: a fresh encoder.
        file: safetensors; a tensor of another shape is refused, strict or not.
        strict: whether the file must hold every tensor of the encoder, and no others but a head's. Files of
            networks with batch norm have running means, which group norm has not: ``strict=False``.

    Raises:
        ConfigError: if the file cannot be read, a tensor has another shape or is not finite, names are
            missing or unexpected (``strict``), or nothing in the file belongs to the encoder.
    """
    given = _named_as(encoder, read_weights(file))
    own = encoder.state_dict()
    for name in sorted(given.keys() & own.keys()):
        if given[name].shape != own[name].shape:
            raise ConfigError(
                f"pretrained {file.name}: {name} has shape {tuple(given[name].shape)}, this encoder's has"
                f" {tuple(own[name].shape)}; take the sizes and channels that the file was trained with"
            )
        if not torch.isfinite(given[name]).all():
            raise ConfigError(f"pretrained {file.name}: {name} is not finite")
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if len(missing) == len(own) or (strict and (missing or unexpected)):
        raise ConfigError(
            f"pretrained {file.name} is of another network: {len(missing)} of {len(own)} tensors are missing"
            f" ({_some(missing)}), {len(unexpected)} are unexpected ({_some(unexpected)});"
            " `strict: false` takes what fits"
        )
    encoder.load_state_dict({name: given.get(name, tensor) for name, tensor in own.items()})
    return missing


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        ConfigError: if the file cannot be read.
    """
    try:
        with safe_open(file, "pt") as stored:
            return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"pretrained weights {file} cannot be read as safetensors ({error}); pickled .pt and .pth files"
            " are never opened: convert them with safetensors.torch.save_file where you trust them"
        ) from error


def _named_as(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the encoder's own names, without a classification head."""
    own = encoder.state_dict().keys()
    given = {_bare(name, tensors): tensor for name, tensor in tensors.items()}
    if given.keys() & own:
        return given
    published: Mapping[str, str] = getattr(encoder, "published_as", {})
    found = {}
    for name, tensor in given.items():
        if name.startswith(HEADS):
            continue
        start = next((o for o, p in published.items() if name.startswith(p)), None)
        found[name if start is None else start + name.removeprefix(published[start])] = tensor
    return found


def _bare(name: str, names: Iterable[str]) -> str:
    for wrapper in WRAPPERS:
        if all(other.startswith(wrapper) for other in names):
            return name.removeprefix(wrapper)
    return name


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) or "none"
