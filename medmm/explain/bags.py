"""A bag of images on a patient's page: how many there were, and the attention that each was given.

Attention says how the network weighed the images (Ilse et al. 2018); it is no share of the logit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medmm.dicom import Bag
from medmm.explain.explainer import Explainer
from medmm.report.patient import InputBlock, UsedSeries
from medmm.sample import SeriesSource
from medmm.scorer import Observed


def used_bag(label: str, source: SeriesSource, bag: Bag) -> UsedSeries:
    """Return the line of a bag: its images count as slices."""
    return UsedSeries(
        label=label,
        series=source.pseudonym,
        slices=len(bag.images),
        offset_days=source.offset_days,
        undated=source.undated,
    )


def with_attention(block: InputBlock, explainer: Explainer, observed: Observed) -> InputBlock:
    """Return a bag's block with the attention that each image was given; any other block as it is."""
    if not isinstance(observed.loaded.get(block.name), Bag) or not block.series:
        return block
    shares = ", ".join(f"{weight:.0%}" for weight in attention(explainer, observed, block.name))
    note = f"attention by image, oldest first: {shares}"
    return replace(block, series=tuple(replace(one, note=note) for one in block.series))


def attention(explainer: Explainer, observed: Observed, name: str) -> list[float]:
    """Return the attention of each image that the network saw, oldest first; of an ensemble, the mean."""
    import torch

    from medmm.encoders.bag import BagEncoder

    seen = observed.inputs[name]
    filled = np.abs(seen).max(axis=(1, 2, 3)) > 0
    encoders = [part for part in explainer.network.encoders[name].modules() if isinstance(part, BagEncoder)]
    with torch.no_grad():
        weights = torch.stack([part.attention(torch.from_numpy(seen[None]))[0] for part in encoders])
    return [float(weight) for weight in weights.mean(dim=0).numpy()[filled]]
