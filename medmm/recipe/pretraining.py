"""What a recipe may say of pretraining: what encoders learn before any label is shown to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medmm.columns import Declared

Objective = Literal["contrastive", "masked_columns", "simclr"]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Pretraining(Declared):
    """How encoders are pretrained without labels.

    Attributes:
        objective: ``contrastive`` pairs each patient's image with the same patient's tables (Hager et al.
            2023); ``masked_columns`` predicts hidden fields from the others and the image (Du et al. 2024);
            ``simclr`` finds the other view of the same image (Chen et al. 2020).
        batch_size: patients of a batch; those of a contrastive batch are each other's negatives.
        temperature: divides the cosine similarities of ``contrastive`` and ``simclr``.
        corruption: share of a patient's fields that are replaced (``contrastive``) or hidden
            (``masked_columns``) in a step.
        unlabelled: whether patients of the training split without a label join.
    """

    objective: Objective
    epochs: Count = 100
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.1
    corruption: Annotated[float, Field(gt=0, lt=1)] = 0.3
    unlabelled: bool = True
