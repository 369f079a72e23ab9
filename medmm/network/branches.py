"""A head of its own for each modality of a joint network: auxiliary losses, and who learns how fast.

The heads serve training alone and never reach a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medmm.network.fusion import pooled
from medmm.network.heads import Head
from medmm.network.network import Network


class Branched(nn.Module):
    """A network with a linear head on the vector of each modality.

    Args:
        network: the network that is fitted.
        taught: whether the heads' losses also teach the encoders; else the heads only watch them.
    """

    def __init__(self, network: Network, *, taught: bool) -> None:
        super().__init__()
        self.network = network
        self.taught = taught
        self.heads = nn.ModuleList(
            [Head(part.pooled, outputs=network.fusion.outputs) for part in network.fusion.given]
        )

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused logits ``[batch]``, and each modality's own ``[batch, modality]``.

        Of several outputs, ``[batch, output]`` and ``[batch, modality, output]``.

        Args:
            inputs: as of :meth:`Network.forward`.
            present: ``[batch, modality]``; the own logit of an absent modality means nothing.
        """
        embeddings = self.network.embed(inputs, present)
        return self.network.fuse(embeddings, present), self.alone(embeddings)

    def alone(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Return each modality's own logit ``[batch, modality]``."""
        logits = []
        for part, name, head in zip(self.network.fusion.given, self.network.names, self.heads, strict=True):
            vector = pooled(part, embeddings[name])
            logits.append(head(vector if self.taught else vector.detach()))
        return torch.stack(logits, dim=1)


def coefficients(scores: Tensor, strength: float) -> Tensor:
    """Return by how much each modality's gradient is multiplied, ``[modality]`` in (0, 1].

    ``k = 1 - tanh(strength · ρ)`` where ``ρ > 1``, else 1, with ``ρ`` a modality's score over the mean score
    of the others: the one that is ahead is slowed down (OGM-GE, Peng et al. 2022, equations 8 to 10).

    Args:
        scores: ``[modality]``, the mean probability that a modality's own head gives the true class; NaN
            where nobody has the modality.
        strength: α, at least 0.
    """
    known = torch.isfinite(scores)
    filled = torch.where(known, scores, torch.zeros_like(scores))
    others = (filled.sum() - filled) / (known.sum() - known.to(scores.dtype)).clamp(min=1)
    ahead = filled / others.clamp(min=1e-8)
    slowed = (ahead > 1) & known & (known.sum() > 1)
    return torch.where(slowed, 1 - torch.tanh(strength * ahead), torch.ones_like(scores))


def modulate(network: Network, scores: Tensor, strength: float, generator: torch.Generator) -> None:
    """Multiply the gradients of each encoder, and add the noise that the multiplication took away.

    The noise has the standard deviation of the gradient before, so that slowed encoders generalise (GE).

    Args:
        network: with gradients.
        scores: as of :func:`coefficients`.
        strength: as of :func:`coefficients`.
        generator: the only source of randomness, on the CPU.
    """
    for name, factor in zip(network.names, coefficients(scores, strength).tolist(), strict=True):
        if factor == 1:
            continue
        for parameter in network.encoders[name].parameters():
            if parameter.grad is None or parameter.grad.ndim < 2:
                continue  # biases and norms have too few numbers for a standard deviation
            noise = torch.randn(parameter.grad.shape, generator=generator).to(parameter.grad)
            parameter.grad = factor * parameter.grad + noise * parameter.grad.std()
