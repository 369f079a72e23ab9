"""The network: encode every present modality, fuse, one logit or several.

``encode`` and ``fuse`` are separate on purpose: an explanation encodes a patient once and then asks
the fusion about thousands of coalitions, and scoring runs the same two halves in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medmm.encoders.halves import FirstHalf
from medmm.errors import ConfigError
from medmm.modality import Modality, Stacked
from medmm.network.forms import encoder_for, width
from medmm.network.fusion import LATE, Fusion, Given, Mean, Selected, fusion, fusion_class
from medmm.network.heads import Head, Unimodal


class Network(nn.Module):
    """Encoders by modality, and the fusion that joins their embeddings.

    Attributes:
        names: the modalities, in the order of the columns of ``present``.
        widths: width of each modality's embedding.

    Raises:
        ConfigError: if an encoder's ``out_features`` is not the width the fusion expects.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], joined: Fusion) -> None:
        super().__init__()
        self.names = tuple(encoders)
        self.encoders = nn.ModuleDict(dict(encoders))
        self.fusion = joined
        self.widths = {name: width(module) for name, module in encoders.items()}
        if tuple(self.widths.values()) != joined.widths:
            raise ConfigError(f"the fusion joins widths {joined.widths}, the encoders give {self.widths}")

    def encode(self, name: str, x: Tensor) -> Tensor:
        """Return the embeddings ``[batch, width]`` of one modality's inputs ``[batch, *shape]``."""
        embedding: Tensor = self.encoders[name](x)
        return embedding

    def fuse(self, embeddings: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``.

        Args:
            embeddings: ``[batch, width]`` per modality; finite and otherwise arbitrary where absent.
            present: ``[batch, modality]``, 1 where the patient has the modality, else 0.
        """
        joined = [embeddings[name] for name in self.names]
        logit: Tensor = self.fusion(joined, present.to(joined[0].dtype))
        return logit

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return logits ``[batch]``; encoders run on present rows only.

        Args:
            inputs: ``[batch, *shape]`` per modality; rows of absent patients are not looked at. A
                modality that nobody in the batch has may be left out.
            present: ``[batch, modality]``, 1 where the patient has the modality, else 0.
        """
        return self.fuse(self.embed(inputs, present), present)

    def embed(self, inputs: Mapping[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        """Return the embeddings ``[batch, width]`` of every modality, zeros where absent; see above."""
        embeddings = {}
        for k, name in enumerate(self.names):
            rows = present[:, k].bool().nonzero().squeeze(1)
            embeddings[name] = self._rows(name, inputs.get(name), rows, len(present))
        return embeddings

    def _rows(self, name: str, x: Tensor | None, rows: Tensor, batch: int) -> Tensor:
        """Encode the given rows; the others are zeros until the fusion replaces them."""
        if x is None and len(rows):
            raise ValueError(f"modality {name!r} is present for {len(rows)} of the batch but has no input")
        if x is None or not len(rows):
            return torch.zeros(batch, self.widths[name], device=rows.device)
        if len(rows) == batch:
            return self.encode(name, x)
        encoded = self.encode(name, x.index_select(0, rows))
        return torch.zeros(batch, *encoded.shape[1:], dtype=encoded.dtype, device=rows.device).index_copy(
            0, rows, encoded
        )


class Together(nn.Module):
    """The encoders of an ensemble's members for one modality, embeddings side by side.

    Args:
        members: one encoder per member.
        splits: widths of the members' parts of the input when each was fitted to its own fold
            (:class:`medmm.modality.Stacked`); empty when all read the same input.
    """

    def __init__(self, members: Sequence[nn.Module], splits: Sequence[int] = ()) -> None:
        super().__init__()
        if splits and len(splits) != len(members):
            raise ConfigError(f"{len(members)} encoders cannot share an input of {len(splits)} parts")
        self.members = nn.ModuleList(members)
        self.splits = tuple(splits)
        self.out_features = sum(width(member) for member in members)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, sum of members' widths]``."""
        parts = torch.split(x, list(self.splits), dim=1) if self.splits else [x] * len(self.members)
        return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True)], dim=1)


class Weighed(Fusion):
    """One weighed sum of another fusion's logits."""

    weights: Tensor

    def __init__(self, whole: Fusion, weights: Sequence[float]) -> None:
        super().__init__(whole.given)
        self.whole = whole
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.float32))

    def last_blocks(self, k: int) -> list[nn.Module]:
        """Return the whole fusion's blocks; see :meth:`Fusion.last_blocks`."""
        return self.whole.last_blocks(k)

    def forward(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Return the sum ``[batch]``; see :meth:`Fusion.forward`."""
        logits: Tensor = self.whole(embeddings, present)
        return logits if logits.ndim == 1 else logits @ self.weights


def weighed(network: Network, weights: Sequence[float]) -> Network:
    """Return the same network with one weighed sum of its logits in place of them: what is explained."""
    return Network(dict(network.encoders.items()), Weighed(network.fusion, weights))


class Ensemble:
    """Several networks as one."""

    @staticmethod
    def of(members: Sequence[Network], splits: Mapping[str, Sequence[int]] | None = None) -> Network:
        """Return the network whose logit is the mean of the members' logits.

        Args:
            members: networks of the same modalities in the same order, one per fold.
            splits: per modality whose members see differently fitted inputs, the widths of the parts
                (:attr:`medmm.modality.Modality.splits`); the other modalities share one input.

        Raises:
            ConfigError: if the members do not have the same modalities.
        """
        if len({member.names for member in members}) != 1:
            raise ConfigError("an ensemble joins networks of the same modalities, in the same order")
        parts = splits or {}
        encoders = {
            name: Together([member.encoders[name] for member in members], parts.get(name, ()))
            for name in members[0].names
        }
        return Network(encoders, Mean([member.fusion for member in members]))


def widened(part: Network, whole: Network) -> Network:
    """Return a network of some modalities as one of all: the others keep the whole's encoders, unused.

    Args:
        part: its modalities are some of the whole's.
        whole: whose modalities, in their order, the result has.
    """
    if part.names == whole.names:
        return part
    owners = [part if name in part.names else whole for name in whole.names]
    encoders = {name: owner.encoders[name] for name, owner in zip(whole.names, owners, strict=True)}
    given = [
        owner.fusion.given[owner.names.index(name)] for name, owner in zip(whole.names, owners, strict=True)
    ]
    return Network(encoders, Selected(part.fusion, given, [whole.names.index(name) for name in part.names]))


def used(network: Network) -> tuple[str, ...]:
    """Return the modalities that a network's logit depends on."""
    fusion = network.fusion
    return tuple(network.names[k] for k in fusion.places) if isinstance(fusion, Selected) else network.names


def same_encoder(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two encoders are the very same one, or ensembles of the very same ones."""
    if isinstance(one, Together) and isinstance(other, Together):
        return len(one.members) == len(other.members) and all(
            mine is theirs for mine, theirs in zip(one.members, other.members, strict=True)
        )
    return one is other


def build(
    modalities: Mapping[str, Modality],
    kind: str,
    options: Mapping[str, Any] | None = None,
    *,
    members: int = 0,
) -> Network:
    """Return a fresh network for fitted modalities.

    Args:
        modalities: fitted modality blocks by name; :class:`medmm.modality.Stacked` ones for an ensemble
            whose members were fitted apart.
        kind: the fusion, a key of :data:`medmm.network.fusion.FUSIONS`.
        options: what the fusion's constructor takes besides the widths.
        members: number of ensemble members; 0 for a single network.

    Raises:
        ConfigError: if the fusion or an encoder cannot be made.
    """
    if members:
        folds = [{n: _member(m, i) for n, m in modalities.items()} for i in range(members)]
        networks = [build(fold, kind, options) for fold in folds]
        return Ensemble.of(networks, {name: modality.splits for name, modality in modalities.items()})
    takes = fusion_class(kind).takes
    parts = {name: encoder_for(modality, takes) for name, modality in modalities.items()}
    encoders = {name: encoder for name, (encoder, _) in parts.items()}
    given: list[int | Given] = [found for _, found in parts.values()]
    chosen = dict(options or {})
    if kind in LATE:
        outputs = chosen.get("outputs", 1)
        encoders = {name: unimodal(encoder, outputs) for name, encoder in encoders.items()}
        given = [outputs] * len(encoders)
    return Network(encoders, fusion(kind, given, **chosen))


def unimodal(encoder: nn.Module, outputs: int = 1) -> Unimodal:
    """Return an encoder with a fresh linear head: the modality alone."""
    return Unimodal(encoder, Head(width(encoder), outputs=outputs))


def bare(encoder: nn.Module) -> nn.Module:
    """Return a modality's own encoder: what :func:`unimodal` wrapped, what was cut in halves, or itself."""
    if isinstance(encoder, FirstHalf):
        return encoder.whole
    return encoder.encoder if isinstance(encoder, Unimodal) else encoder


def drop_modalities(present: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return ``present`` with modalities dropped at random, never all of a patient's.

    Each present modality is dropped with probability ``share``; a patient who would lose them all
    keeps one of them, drawn evenly. Fusion learns its absent embeddings from it (modality dropout).

    Args:
        present: ``[batch, modality]``, 1 or 0.
        share: probability of dropping, in [0, 1).
        generator: the only source of randomness.
    """
    draw = torch.rand(present.shape, generator=generator, device=generator.device).to(present.device)
    held = present.bool()
    kept = held & (draw >= share)
    # Of equally distributed draws the largest is anyone's: keeping it keeps an evenly drawn modality.
    best = torch.where(held, draw, -1.0).argmax(dim=1, keepdim=True)
    rescued = torch.zeros_like(held).scatter(1, best, value=True) & held
    return torch.where(kept.any(dim=1, keepdim=True), kept, rescued).to(present.dtype)


def _member(modality: Modality, index: int) -> Modality:
    return modality.members[index] if isinstance(modality, Stacked) else modality
