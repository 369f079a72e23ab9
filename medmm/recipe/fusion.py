"""The block ``fusion`` of a recipe: how the modalities are joined, and what that asks of them.

What each kind is, with its source, stands in :mod:`medmm.network.fusion`; which to choose in docs/fusion.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from medmm.columns import Declared
from medmm.modality import Form

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1024)]
Few = Annotated[int, Field(ge=1, le=64)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0)]


class Joint(Declared):
    """A fusion that is fitted together with the encoders.

    Attributes:
        dropout: share of the fused vector dropped at training.
        modality_dropout: probability with which a modality that is there is withheld at training.
        auxiliary: weight of the mean loss of the modalities' own heads, on the patients who have them.
        modulate: strength of the gradient modulation that slows the modality which is ahead (OGM-GE, Peng et
            al. 2022, https://doi.org/10.1109/CVPR52688.2022.00806); 0 leaves gradients alone.
    """

    needs: ClassVar[tuple[Form, ...]] = ()

    kind: str
    dropout: Rate = 0.2
    modality_dropout: Rate = 0.2
    auxiliary: Strength = 0.0
    modulate: Strength = 0.0

    def options(self) -> dict[str, Any]:
        """Return what the fusion's constructor takes besides what the encoders give."""
        ours = {"kind", "modality_dropout", "auxiliary", "modulate"}
        return self.model_dump(exclude=ours)


class _Layered(Joint):
    """A fusion whose head is an MLP with one hidden layer."""

    hidden: Count = 32

    def options(self) -> dict[str, Any]:
        """Return the hidden layers as a list; see :meth:`Joint.options`."""
        return {**super().options(), "hidden": [self.hidden]}


class Concat(_Layered):
    """An MLP over the embeddings and the presence of every modality."""

    kind: Literal["concat"] = "concat"


class Gated(Joint):
    """A gate per hidden unit says how much of each modality passes (Arevalo et al. 2017)."""

    kind: Literal["gated"] = "gated"
    hidden: Count = 32


class LowRank(Joint):
    """All products of all embeddings, factorised (Liu et al. 2018)."""

    kind: Literal["lowrank"] = "lowrank"
    hidden: Count = 32
    rank: Few = 4


class ProductOfExperts(Joint):
    """A Gaussian per modality, multiplied with a prior (Wu & Goodman 2018)."""

    kind: Literal["poe"] = "poe"
    hidden: Count = 32


class MissingExperts(Joint):
    """A bank of embeddings for what is missing, and sparse experts (Flex-MoE, Yun et al. 2024)."""

    kind: Literal["moe_missing"] = "moe_missing"
    hidden: Count = 32
    experts: Few = 8
    top: Few = 2

    @model_validator(mode="after")
    def _enough(self) -> MissingExperts:
        if self.top > self.experts:
            raise ValueError(
                f"`top` {self.top} of {self.experts} `experts`; it cannot be more than there are"
            )
        return self


class SequenceLSTM(Joint):
    """An LSTM that reads the embeddings one after the other (MedFuse, Hayat et al. 2022)."""

    kind: Literal["seq_lstm"] = "seq_lstm"
    hidden: Count = 32


class _Attending(Joint):
    """A fusion made of attention: ``heads`` divide ``width``."""

    width: Count = 16
    heads: Few = 2
    layers: Few = 1

    @model_validator(mode="after")
    def _divided(self) -> _Attending:
        if self.width % self.heads:
            raise ValueError(f"`heads` {self.heads} must divide `width` {self.width}")
        return self


class TokenTransformer(_Attending):
    """A transformer over one token per modality."""

    kind: Literal["token_transformer"] = "token_transformer"


class Film(_Layered):
    """The tables scale and shift the image's feature map (FiLM, Perez et al. 2018)."""

    needs: ClassVar[tuple[Form, ...]] = ("map",)
    kind: Literal["film"] = "film"


class Daft(_Layered):
    """The same, from the tables and the image itself (DAFT, Wolf et al. 2022)."""

    needs: ClassVar[tuple[Form, ...]] = ("map",)
    kind: Literal["daft"] = "daft"
    bottleneck: Count = 7


class TabularCrossAttention(_Attending):
    """Table fields attend to each other and to the places of the image (TIP, Du et al. 2024)."""

    needs: ClassVar[tuple[Form, ...]] = ("map", "tokens")
    kind: Literal["tab_cross_attn"] = "tab_cross_attn"


class LateMean(Declared):
    """Decision fusion: the weighted mean of the logits of the modalities alone, over those present.

    Attributes:
        weights: per modality; 1 where none is stated.
    """

    needs: ClassVar[tuple[Form, ...]] = ()
    kind: Literal["late_mean"] = "late_mean"
    weights: dict[str, Positive] = Field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Return nothing: the weights are kept with the network's."""
        return {}


class LateStack(Declared):
    """Decision fusion: logistic regression over calibrated out-of-fold logits of the modalities alone.

    Source: Huang et al. 2020, https://doi.org/10.1038/s41598-020-78888-w (late fusion of CT and records).

    Attributes:
        inner_folds: folds within the training patients, where the cohort's ``splits.inner_folds`` does not
            say; fewer until each class of each modality has
            ``smallest_class`` patients in every fold.
    """

    needs: ClassVar[tuple[Form, ...]] = ()
    kind: Literal["late_stack"] = "late_stack"
    inner_folds: Annotated[int, Field(ge=2, le=100)] = 5
    smallest_class: Count = 5
    l2: Positive = 1.0

    def options(self) -> dict[str, Any]:
        """Return nothing: the coefficients are kept with the network's weights."""
        return {}


Fusion = Annotated[
    Concat
    | Daft
    | Film
    | Gated
    | LateMean
    | LateStack
    | LowRank
    | MissingExperts
    | ProductOfExperts
    | SequenceLSTM
    | TabularCrossAttention
    | TokenTransformer,
    Field(discriminator="kind"),
]
"""Every fusion, told apart by ``kind``."""


def check_modalities(fusion: Joint | LateMean | LateStack, gives: Mapping[str, tuple[Form, ...]]) -> None:
    """Refuse a fusion of modalities that do not give what it needs.

    Args:
        gives: per modality, what its encoder can give (:attr:`medmm.modality.Modality.gives`).

    Raises:
        ValueError: naming what is missing and what to do.
    """
    names = ", ".join(gives)
    for form in fusion.needs:
        if not any(form in forms for forms in gives.values()):
            wanted = {"map": "a feature map (an image)", "tokens": "one token per field (a table)"}[form]
            raise ValueError(
                f"fusion `{fusion.kind}` needs a modality that gives {wanted}, and none of {names} does;"
                " add one, or take `concat` or `late_stack`"
            )
    if "map" in fusion.needs and all("map" in forms for forms in gives.values()):
        raise ValueError(
            f"fusion `{fusion.kind}` turns an image by another modality, and {names} are all images;"
            " add a table, or take `concat` or `late_stack`"
        )
    unknown = sorted(set(getattr(fusion, "weights", {})) - set(gives))
    if unknown:
        raise ValueError(
            f"fusion `{fusion.kind}` weighs {unknown[0]!r}, which the recipe does not have; it has {names}"
        )


def others(own: Fusion, asked: Sequence[Fusion]) -> dict[str, Fusion]:
    """Return the fusions that are fitted beside the recipe's own, by name: the kind, numbered if taken.

    A block that stands twice is one model.
    """
    found: dict[str, Fusion] = {}
    for fusion in asked:
        if fusion == own or fusion in found.values():
            continue
        earlier = sum(other.kind == fusion.kind for other in (own, *found.values()))
        found[f"{fusion.kind}_{earlier + 1}" if earlier else fusion.kind] = fusion
    return found
