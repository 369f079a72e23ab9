"""A bag of images to one vector: one encoder for each image, attention over them.

Gated attention (Ilse, Tomczak & Welling 2018, equation 9): the weight of an image is learned, the order of
the images plays no part, and an empty place of the bag has no weight at all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medmm.encoders.image import ImageEncoder


class BagEncoder(nn.Module):
    """Attention pooling over the images of a patient.

    A place of the bag is empty where its image is zero in every pixel.

    Args:
        image: of one image, ``[batch, channel, row, column] → [batch, width]``.
        attention: units of the attention's hidden layer.
    """

    def __init__(self, image: ImageEncoder, attention: int) -> None:
        super().__init__()
        self.image = image
        self.content = nn.Linear(image.out_features, attention)
        self.gate = nn.Linear(image.out_features, attention)
        self.score = nn.Linear(attention, 1)
        self.out_features = image.out_features

    def forward(self, bag: Tensor) -> Tensor:
        """Return embeddings ``[batch, out_features]`` of bags ``[batch, n, channel, row, column]``."""
        embedded, weights = self._weighed(bag)
        return (weights.unsqueeze(-1) * embedded).sum(dim=1)

    def attention(self, bag: Tensor) -> Tensor:
        """Return the weight of each image, ``[batch, n]``; a row adds up to 1, an empty place has 0."""
        return self._weighed(bag)[1]

    def _weighed(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.image(bag.flatten(0, 1)).unflatten(0, (-1, bag.shape[1]))
        hidden = torch.tanh(self.content(embedded)) * torch.sigmoid(self.gate(embedded))
        empty = bag.detach().abs().amax(dim=(2, 3, 4)) == 0
        # finite, so that a bag of nothing gives numbers and not NaN; nobody looks at them
        scores = self.score(hidden).squeeze(-1).masked_fill(empty, EMPTY)
        return embedded, torch.softmax(scores, dim=1) * (~empty).to(scores.dtype)


BAG_AXES = 5
"""A batch of bags is ``[batch, n, channel, row, column]``."""
EMPTY = -1e9
"""Score of an empty place: its weight is exactly 0 beside any image."""
