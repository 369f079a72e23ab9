"""How fast each modality of a joint network learns, said by what it loses without each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medmm.arrays import Float64, Ints
from medmm.fitting.inputs import Inputs

WATCHED = 64
"""Training patients on whom a joint network is watched where nobody is set aside."""

Loss = Callable[[torch.Tensor, Ints], torch.Tensor]


@torch.no_grad()
def gains(loss: Loss, inputs: Inputs, patients: Ints, whole: Float64, without: Float64) -> dict[str, float]:
    """Return per modality by how much the loss grows when it is withheld, as ``gain.<name>``.

    Of those who have the modality and another one (conditional utilisation, after Wu et al. 2022,
    https://proceedings.mlr.press/v162/wu22d.html, with the loss in place of the accuracy).

    Args:
        loss: of logits and the patients whose logits they are.
        inputs: says who has what.
        patients: rows of the patients.
        whole: ``[patient]``, logits.
        without: ``[modality, patient]``, logits with one modality withheld.
    """
    present, found = inputs.present[patients], {}
    for k, name in enumerate(inputs.names):
        rows = present[:, k] & (present.sum(axis=1) > 1)
        if rows.any():
            with_it, without_it = (
                float(loss(torch.from_numpy(logits[rows]), patients[rows])) for logits in (whole, without[k])
            )
            found[f"gain.{name}"] = without_it - with_it
    return found
