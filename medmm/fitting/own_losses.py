"""The losses of the modalities' own heads, where a joint network has them."""

from __future__ import annotations

import torch

from medmm.arrays import Ints
from medmm.fitting.job import Job
from medmm.fitting.losses import Objective
from medmm.fitting.processes import Processes


class OwnLosses:
    """What the heads of a :class:`medmm.network.branches.Branched` network lose, step by step.

    Attributes:
        log: per part of a batch, the summed loss and the number of patients who have it, ``[modality]``.
    """

    def __init__(self, job: Job, objective: Objective) -> None:
        self.job = job
        self.objective = objective
        self.log: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(
        self, own: torch.Tensor, present: torch.Tensor, patients: Ints, have: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weighted mean loss of the heads, each on the patients who have its modality.

        Args:
            own: ``[patient, modality]`` or ``[patient, modality, output]``.
            present: ``[patient, modality]``.
            patients: rows of the patients.
            have: patients of the whole batch who have each modality, ``[modality]``, where these are some of
                them.
        """
        losses = own.new_zeros(own.shape[1])
        for k in range(own.shape[1]):
            rows = present[:, k].bool()
            if rows.any():
                labels = self.job.labels[patients[rows.cpu().numpy()]]
                losses[k] = self.objective(own[rows, k], labels, None if have is None else int(have[k]))
        here = present.sum(dim=0)
        whole = here if have is None else have
        self.log.append((losses.detach() * whole, here))
        # Heads that only watch are fitted with weight 1: no encoder hears of it.
        return (self.job.auxiliary or 1.0) * losses.sum() / (whole > 0).sum().clamp(min=1)

    @torch.no_grad()
    def likelihood(self, own: torch.Tensor, present: torch.Tensor, patients: Ints) -> torch.Tensor:
        """Return the summed probability of the true class by each head, ``[modality]``."""
        labels = self.job.labels[patients]
        true = torch.stack([self.objective.likelihood(own[:, k], labels) for k in range(own.shape[1])], dim=1)
        return (present * true).sum(dim=0)

    def means(self, label: str, ours: Processes) -> dict[str, float]:
        """Return each modality's mean own loss since the last call, by ``<label>.<name>``."""
        names = self.job.network.names
        sums = [torch.stack(parts).sum(dim=0) for parts in zip(*self.log, strict=True)]
        self.log.clear()
        if not sums:
            if ours.count == 1:
                return {}
            sums = [torch.zeros(len(names), device=ours.device) for _ in range(2)]
        losses, have = (ours.total(part).tolist() for part in sums)
        return {f"{label}.{n}": x / h for n, x, h in zip(names, losses, have, strict=True) if h}
