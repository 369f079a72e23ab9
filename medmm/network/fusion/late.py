"""Late fusions: of the logits of the modalities alone. Their coefficients are set, not descended to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medmm.errors import ConfigError
from medmm.network.fusion.base import Fusion, Given


class LateMean(Fusion):
    """``Σ_k m_k w_k l_k / Σ_k m_k w_k`` over the logits ``l_k`` of the modalities alone; 0 where none is.

    Args:
        given: width of each base, all ``outputs``.
        outputs: logits per patient.
    """

    weight: Tensor

    def __init__(self, given: Sequence[int | Given], outputs: int = 1) -> None:
        super().__init__(given, outputs)
        _bases("late_mean", self.widths, outputs)
        self.register_buffer("weight", torch.ones(len(self.widths)))

    @classmethod
    def of(cls, weight: Sequence[float], outputs: int = 1) -> LateMean:
        """Return the mean with these positive weights, one per modality in the network's order."""
        mean = cls([outputs] * len(weight), outputs)
        mean.weight = torch.tensor(weight, dtype=torch.float32)
        return mean

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        share = (present * self.weight).unsqueeze(2)  # [batch, modality, 1]
        total = share.sum(dim=1)
        logits = (share * torch.stack(embeddings, dim=1)).sum(dim=1) / (total + (total == 0).to(total.dtype))
        return logits.squeeze(1) if self.outputs == 1 else logits


class Stack(Fusion):
    """``b + Σ_k m_k (w_k (a_k l_k + c_k) + v_k)``: a fitted logistic regression over base logits.

    ``l_k`` is the logit of base k (an embedding of width 1), ``a_k`` and ``c_k`` its Platt
    calibration, ``w_k`` and ``v_k`` what the stacking regression gives the calibrated logit and the
    presence of the modality (Huang et al. 2020, late fusion). Nothing here is trained by gradient:
    the coefficients are buffers, set by :meth:`of`.

    Args:
        given: width of each base, all ``outputs``.
        outputs: logits per patient; each has its own coefficients.
    """

    slope: Tensor
    shift: Tensor
    weight: Tensor
    presence_weight: Tensor
    intercept: Tensor

    def __init__(self, given: Sequence[int | Given], outputs: int = 1) -> None:
        super().__init__(given, outputs)
        _bases("late_stack", self.widths, outputs)
        shape = (len(self.widths),) if outputs == 1 else (len(self.widths), outputs)
        self.register_buffer("slope", torch.ones(shape))
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("weight", torch.ones(shape))
        self.register_buffer("presence_weight", torch.zeros(shape))
        self.register_buffer("intercept", torch.zeros(shape[1:]))

    @classmethod
    def of(
        cls,
        *,
        slope: Sequence[float],
        shift: Sequence[float],
        weight: Sequence[float],
        presence_weight: Sequence[float],
        intercept: float,
    ) -> Stack:
        """Return the stack of one logit with these coefficients, one per modality in the network's order.

        Args:
            slope: ``a_k``, Platt slope of base k.
            shift: ``c_k``, Platt intercept of base k.
            weight: ``w_k``, of the calibrated logit.
            presence_weight: ``v_k``, of being present.
            intercept: ``b``.
        """
        stack = cls([1] * len(weight))
        stack.slope = torch.tensor(slope, dtype=torch.float32)
        stack.shift = torch.tensor(shift, dtype=torch.float32)
        stack.weight = torch.tensor(weight, dtype=torch.float32)
        stack.presence_weight = torch.tensor(presence_weight, dtype=torch.float32)
        stack.intercept = torch.tensor(intercept, dtype=torch.float32)
        return stack

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        if self.outputs == 1:
            base, m = torch.cat(embeddings, dim=1), present  # [batch, modality]
        else:
            base, m = torch.stack(embeddings, dim=1), present.unsqueeze(2)  # [batch, modality, output]
        calibrated = self.slope * base + self.shift
        share = m * (self.weight * calibrated + self.presence_weight)
        return self.intercept + share.sum(dim=1)


def _bases(kind: str, widths: Sequence[int], outputs: int) -> None:
    if any(width != outputs for width in widths):
        raise ConfigError(f"{kind} joins base logits of width {outputs}, not embeddings of {tuple(widths)}")
