"""Logits of patients by a network as it is: no dropout, no gradients, float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medmm.arrays import Float64, Ints
from medmm.fitting.inputs import Inputs
from medmm.fitting.memory import in_batches
from medmm.network.network import Network

BATCH = 64
"""Patients who are predicted at once."""


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a batch to the device; volumes go channels-last, which halves a step on a CPU."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    moved = tensor.to(device)
    return moved.contiguous(memory_format=formats[tensor.ndim]) if tensor.ndim in formats else moved


@torch.no_grad()
def predict(network: Network, inputs: Inputs, patients: Ints, *, batch_size: int = BATCH) -> Float64:
    """Return the logit of each patient, ``[patient]``; of several outputs, ``[patient, output]``."""
    network.eval()

    def logits(rows: Ints) -> Float64:
        return _numbers(network(*batch(inputs, rows, _device(network))))

    found = in_batches(logits, patients, batch_size)
    if found:
        return np.concatenate(found)
    outputs = network.fusion.outputs
    return np.zeros((0, outputs) if outputs > 1 else 0)


@torch.no_grad()
def withheld(
    network: Network, inputs: Inputs, patients: Ints, *, batch_size: int = BATCH
) -> tuple[Float64, Float64]:
    """Return the logits ``[patient]``, and those with one modality withheld ``[modality, patient]``."""
    network.eval()

    def logits(rows: Ints) -> tuple[Float64, Float64]:
        values, present = batch(inputs, rows, _device(network))
        embedded = network.embed(values, present)
        masks = 1 - torch.eye(present.shape[1], device=present.device)
        without = [_numbers(network.fuse(embedded, present * mask)) for mask in masks]
        return _numbers(network.fuse(embedded, present)), np.stack(without)

    whole, without = zip(*in_batches(logits, patients, batch_size), strict=True)
    return np.concatenate(whole), np.concatenate(without, axis=1)


def batch(inputs: Inputs, patients: Ints, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs and presence of some patients (:meth:`medmm.fitting.inputs.Inputs.batch`), in place."""
    values, present = inputs.batch(patients)
    return {name: placed(tensor, device) for name, tensor in values.items()}, present.to(device)


def _device(network: Network) -> torch.device:
    return next(network.parameters()).device


def _numbers(logits: Tensor) -> Float64:
    found: Float64 = logits.cpu().double().numpy()
    return found
