"""A fusion of some of the modalities, in the place of one of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medmm.network.fusion.base import Fusion, Given


class Selected(Fusion):
    """Another fusion, of some of the modalities; the other embeddings are taken and not looked at.

    So a submodel has the signature of the fused network: the same presence vector, the same players of an
    explanation, and a share of exactly 0 for what it does not look at.

    Args:
        part: of some of the modalities.
        given: what each encoder gives, in the order of all modalities.
        places: of the modalities of ``part`` among all.
    """

    def __init__(self, part: Fusion, given: Sequence[int | Given], places: Sequence[int]) -> None:
        super().__init__(given, part.outputs)
        self.part = part
        self.places = list(places)

    def last_blocks(self, k: int) -> list[nn.Module]:
        """Return the part's blocks; see :meth:`Fusion.last_blocks`."""
        return self.part.last_blocks(self.places.index(k)) if k in self.places else []

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return logits; see :meth:`Fusion.forward`."""
        logits: Tensor = self.part([embeddings[k] for k in self.places], present[:, self.places])
        return logits
