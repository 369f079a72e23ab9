"""A small joint network of a volume and a table, fitted in this process: what tests of the loop start anew.

``python -m tests.fitting.small_fit WORK JSON`` leaves its weights in ``WORK/weights.safetensors``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from medmm.encoders.mlp import TableEncoder
from medmm.fitting import loop
from medmm.fitting.checkpoint import History
from medmm.fitting.inputs import Inputs, Prepared
from medmm.fitting.job import Job
from medmm.fitting.processes import leads
from medmm.fitting.steps import Steps
from medmm.network.fusion import fusion
from medmm.network.network import Network
from medmm.outcome import Task
from medmm.recipe import Fitting

PATIENTS = 60
OUTCOMES: Mapping[str, tuple[Task, ...]] = {
    "binary": (Task(name="event", kind="binary"),),
    "several": (
        Task(name="event", kind="binary"),
        Task(name="level", kind="ordinal", classes=("low", "middle", "high")),
    ),
    "cox": (Task(name="death", kind="cox"),),
}


class Volume(nn.Module):
    """A convolution, a norm, a mean: ``[batch, 1, x, y, z] → [batch, 8]``."""

    out_features = 8

    def __init__(self, norm: str = "group", dropout: float = 0.0) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8) if norm == "batch" else nn.GroupNorm(2, 8)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(torch.relu(self.norm(self.convolution(x))).mean(dim=(2, 3, 4)))


def mirrored(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    turn = torch.rand(len(batch), generator=generator) < 0.5
    return torch.where(turn.view(-1, 1, 1, 1, 1), batch.flip(2), batch)


def small_job(
    *,
    settings: Mapping[str, Any] | None = None,
    outcome: str = "binary",
    norm: str = "group",
    dropout: float = 0.0,
    size: int = 6,
    **more: Any,
) -> Job:
    """Return the job; everyone has the table, three in four the volume. Labels follow the table."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(PATIENTS, 5)).astype(np.float32)
    volumes = rng.normal(size=(PATIENTS, 1, size, size, size)).astype(np.float16)
    rows, none = np.arange(PATIENTS), ("",) * PATIENTS
    inputs = Inputs(
        {"ct": Prepared(volumes, np.where(rows % 4, rows, -1), none), "records": Prepared(table, rows, none)}
    )
    events = (table[:, 0] + rng.normal(size=PATIENTS) > 0).astype(float)
    labels = events
    if outcome == "several":
        labels = np.stack([events, rng.integers(0, 3, PATIENTS).astype(float)], axis=1)
        labels[rng.random(labels.shape) < 0.2] = np.nan
    elif outcome == "cox":
        labels = np.where(events == 1, 1, -1) * rng.uniform(1, 9, PATIENTS)
    torch.manual_seed(2)
    encoders = {"ct": Volume(norm, dropout), "records": TableEncoder(5, (8,), dropout)}
    outputs = sum(task.outputs for task in OUTCOMES[outcome])
    network = Network(encoders, fusion("concat", [8, 8], dropout=dropout, outputs=outputs))
    return Job(
        name="fold0/fused",
        network=network,
        inputs=inputs,
        labels=labels,
        train=rows[:45],
        select=rows[45:],
        settings=Fitting(**{"epochs": 3, "batch_size": 16, **(settings or {})}),
        seed=7,
        modality_dropout=0.2,
        augment={"ct": mirrored},
        tasks=OUTCOMES[outcome],
        **more,
    )


def die_at(step: int) -> None:
    """Let this process be killed in the middle of a step, as a machine is lost: nothing is cleaned up."""
    update = Steps._update

    def killed(self: Steps) -> None:
        update(self)
        killed.steps += 1  # type: ignore[attr-defined]
        if killed.steps > step:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)

    killed.steps = 0  # type: ignore[attr-defined]
    Steps._update = killed  # type: ignore[method-assign]


def main() -> None:
    """Fit, and leave weights and history."""
    work, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS = asked.pop("checkpoint_seconds", 10.0)
    kill, spare = asked.pop("kill", None), asked.pop("spare_megabytes", None)
    rank = str(asked.pop("kill_rank", 0))
    job = small_job(**asked)
    if kill is not None and os.environ.get("RANK", "0") == rank:
        die_at(kill)
    if spare is not None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (spare << 20),) * 2)
    history: History = loop.fit_network(job, work)
    if leads():
        save_file(job.network.state_dict(), work / "weights.safetensors")
        (work / "micro_batch").write_text(str(history.micro_batch))


if __name__ == "__main__":
    main()
