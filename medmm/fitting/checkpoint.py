"""The state of a fit on disk: safetensors with its history as JSON, whole or not there at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FIT = "fit"
"""The entry of a file's metadata that holds history and progress as JSON."""


@dataclass(slots=True)
class History:
    """What happened while one network was fitted; ``epochs`` holds the metrics of each.

    Of a joint network they also say how fast each modality learns: ``gain.<name>`` is by how much the loss
    of those who have it grows when it is withheld (conditional utilisation, after Wu et al. 2022), on the
    select patients or, where nobody is set aside, on some who are trained on; and where the modalities have
    heads of their own, ``loss.<name>`` and ``select_loss.<name>``.

    Attributes:
        micro_batch: most patients of a batch that went through the network at once since memory ran out;
            0 where it never did.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = math.inf
    early_stopping: bool = True
    micro_batch: int = 0


@dataclass(slots=True)
class Begun:
    """How far an epoch has come: batches and patients that were descended, and the sum of their losses."""

    batches: int = 0
    patients: int = 0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file held."""

    tensors: dict[str, torch.Tensor]
    history: History
    begun: Begun

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors ``<name>.<key>`` by key."""
        start = f"{name}."
        return {
            key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)
        }


def write(
    file: Path, tensors: Mapping[str, torch.Tensor], history: History, begun: Begun | None = None
) -> None:
    """Write tensors and their history in one file, so that a kill leaves the old or the new one whole."""
    temporary = file.with_suffix(".partial")
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    told = {"history": asdict(history), "begun": asdict(begun or Begun())}
    save_file(contiguous, temporary, metadata={FIT: json.dumps(told)})  # one entry: several have no order
    temporary.replace(file)


def read(file: Path) -> Stored | None:
    """Return what :func:`write` wrote; None where it is not there or damaged, and then it is done again."""
    try:
        with safe_open(file, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
            told = json.loads(stored.metadata()[FIT])
            return Stored(tensors, History(**told["history"]), Begun(**told["begun"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def labelled(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of several parts in one, as ``<part>.<key>``; :meth:`Stored.part` is the inverse."""
    return {f"{part}.{key}": value for part, tensors in parts.items() for key, value in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return what an optimizer remembers of each parameter, as ``<index>.<slot>``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{slot}": value for index, own in state.items() for slot, value in own.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, slot = key.split(".", 1)
        state.setdefault(int(index), {})[slot] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value.shape == parameter.shape:  # in the form of the parameter, which a fused step counts on
                slots[slot] = torch.empty_like(parameter).copy_(value)


def copied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state that no further step alters."""
    return {key: value.detach().clone() for key, value in state.items()}


def stacked_pairs(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return pairs of tensors as two that are written; nothing of none."""
    return {f"{place}": torch.stack(part) for place, part in enumerate(zip(*pairs, strict=True))}


def unstacked_pairs(tensors: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the pairs of :func:`stacked_pairs`."""
    return list(zip(tensors["0"].unbind(), tensors["1"].unbind(), strict=True)) if tensors else []
