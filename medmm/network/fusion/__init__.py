"""Fusions: from one embedding per modality, and which modalities are present, to logits.

Sources and formulas stand at each class; which to choose when, with measured figures, in docs/fusion.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from medmm.errors import ConfigError
from medmm.network.fusion.base import Absent, Fusion, Given, pooled
from medmm.network.fusion.experts import MissingExperts
from medmm.network.fusion.joint import Concat, Gated, LowRank, ProductOfExperts
from medmm.network.fusion.late import LateMean, Stack
from medmm.network.fusion.maps import Daft, Film
from medmm.network.fusion.mean import Mean
from medmm.network.fusion.selected import Selected
from medmm.network.fusion.sequence import SequenceLSTM
from medmm.network.fusion.tokens import TabularCrossAttention, TokenTransformer

__all__ = [
    "FUSIONS",
    "LATE",
    "Absent",
    "Concat",
    "Daft",
    "Film",
    "Fusion",
    "Gated",
    "Given",
    "LateMean",
    "LowRank",
    "Mean",
    "MissingExperts",
    "ProductOfExperts",
    "Selected",
    "SequenceLSTM",
    "Stack",
    "TabularCrossAttention",
    "TokenTransformer",
    "fusion",
    "fusion_class",
    "pooled",
]

FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "daft": Daft,
    "film": Film,
    "gated": Gated,
    "late_mean": LateMean,
    "late_stack": Stack,
    "lowrank": LowRank,
    "moe_missing": MissingExperts,
    "poe": ProductOfExperts,
    "seq_lstm": SequenceLSTM,
    "tab_cross_attn": TabularCrossAttention,
    "token_transformer": TokenTransformer,
}
"""The fusions a recipe can ask for, by kind."""

LATE = frozenset({"late_mean", "late_stack"})
"""Those that join the logits of the modalities alone."""


def fusion_class(kind: str) -> type[Fusion]:
    """Return the class of a kind.

    Raises:
        ConfigError: if there is no such fusion.
    """
    if kind not in FUSIONS:
        near = difflib.get_close_matches(kind, FUSIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(FUSIONS))}"
        raise ConfigError(f"no fusion {kind!r}; {hint}")
    return FUSIONS[kind]


def fusion(kind: str, given: Sequence[int | Given], **options: Any) -> Fusion:
    """Return a fresh fusion of a kind.

    Args:
        kind: a key of :data:`FUSIONS`.
        given: what each modality's encoder gives, in the network's order; a number is a vector's width.
        **options: what the fusion's constructor takes besides.

    Raises:
        ConfigError: if there is no such fusion, or it does not take these options.
    """
    cls = fusion_class(kind)
    try:
        return cls(given, **options)
    except TypeError as error:
        raise ConfigError(f"fusion {kind!r} cannot be made with {sorted(options)}: {error}") from error
