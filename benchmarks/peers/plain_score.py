"""The peer of ``score_one``: one patient scored as people write it, with torch, monai, mlflow and pandas.

plain_score.py save MODEL_DIR           write the model with mlflow
plain_score.py score MODEL_DIR DATA ID SERIES_DIR
"""

from __future__ import annotations

import json
import sys

import mlflow.pytorch
import numpy as np
import pandas as pd
import torch
from monai.networks.blocks import Convolution
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensityRange
from torch import nn

CHANNELS = (12, 24, 48)


class Fusion(nn.Module):
    """The demo's network: three strided convolutions, an MLP on 16 numbers, concatenation, one logit."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *CHANNELS)
        self.image = nn.Sequential(
            *[
                Convolution(3, before, after, strides=2, norm=("group", {"num_groups": 4}), act="RELU")
                for before, after in zip(widths, CHANNELS, strict=False)
            ],
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.table = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.head = nn.Linear(CHANNELS[-1] + 16, 1)

    def forward(self, image: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.image(image), self.table(table)], dim=1))


def save(model: str) -> None:
    """Write an untrained model: its cost is that of a trained one."""
    mlflow.pytorch.save_model(
        Fusion().eval(), model, pip_requirements=["torch"], serialization_format="pickle"
    )


def score(model: str, data: str, subject: str, series: str) -> float:
    """Load the model, the image and the tables, and return the risk of one patient."""
    network = mlflow.pytorch.load_model(model).eval()
    transform = Compose(
        [
            LoadImage(image_only=True),
            EnsureChannelFirst(),
            ScaleIntensityRange(-200, 400, 0, 1, clip=True),
            Resize((32, 32, 16)),
        ]
    )
    records = pd.read_csv(f"{data}/records.csv", dtype={"patient_id": str}).set_index("patient_id")
    results = pd.read_csv(f"{data}/biomarkers.csv", dtype={"patient_id": str})
    results = results[results.patient_id == subject]
    moment = records.loc[subject, "assessed_at"]
    results = results[results.collected_at <= moment].sort_values("collected_at")
    values = pd.to_numeric(results.groupby("code").value.last(), errors="coerce").fillna(0).to_numpy()
    row = np.zeros(16, dtype=np.float32)
    row[: len(values[:15])] = values[:15]
    row[15] = pd.to_numeric(records.loc[subject, "age"], errors="coerce")
    with torch.inference_mode():
        logit = network(transform(series)[None].as_tensor(), torch.from_numpy(row)[None])
    return float(torch.sigmoid(logit))


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(sys.argv[2])
    else:
        print(json.dumps({"risk": score(*sys.argv[2:])}))
