"""The three objectives: encoders with heads that are thrown away once the encoders have learned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from medmm.fitting.predicting import placed
from medmm.fitting.pretraining.losses import hidden_fields, info_nce, nt_xent, retrieved
from medmm.fitting.pretraining.pool import Pool
from medmm.fitting.pretraining.views import blank, chosen, corrupted, owners
from medmm.modalities.tables import Table
from medmm.modality import Modality
from medmm.network.forms import width
from medmm.recipe import Pretraining

PROJECTION = 64
"""Width in which views are compared (Chen et al. 2020 take 128 for encoders thirty times as wide)."""

HIDDEN = 64
"""Width of the layer between the embeddings and the hidden fields."""

FEWEST = 2
"""Patients of whom an objective makes anything: alone, a patient has nobody to be told from."""

Batch = tuple[dict[str, Tensor], Tensor]
"""Inputs ``[batch, *shape]`` by modality, and presence ``[batch, modality]``."""


class Learner(nn.Module):
    """Encoders, and the heads of one objective.

    Attributes:
        takes: whether the objective looks at images, at tables.
        names: modalities, in the order of the columns of ``present``.
    """

    takes: ClassVar[tuple[bool, bool]] = (True, True)

    def __init__(self, modalities: Mapping[str, Modality], settings: Pretraining) -> None:
        super().__init__()
        self.modalities = dict(modalities)
        self.settings = settings
        self.names = tuple(modalities)
        self.encoders = nn.ModuleDict({name: m.encoder() for name, m in modalities.items()})
        for name, modality in modalities.items():
            modality.warm_start(self.encoders[name])
        _undropped(self.encoders)
        self.tables = {name: m for name, m in modalities.items() if isinstance(m, Table)}
        self.images = [name for name in modalities if name not in self.tables]
        self.owners = {name: owners(t.players(), t.shape[0]) for name, t in self.tables.items()}

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of a batch, and what else is worth following.

        Args:
            batch: on the CPU; it is moved to where the encoders are once the chances have been drawn.
            generator: the only source of chance but the dropout of the encoders.
        """

    @staticmethod
    @abstractmethod
    def suits(images: Tensor, tables: Tensor) -> Tensor:
        """Return who can be learned from, ``[patient]``.

        Args:
            images: ``[patient]``, who has an image.
            tables: ``[patient]``, who has a table.
        """

    def embedded(self, names: Sequence[str], values: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Return the embeddings of some modalities side by side, zeros where absent."""
        device = next(self.parameters()).device
        parts = []
        for name in names:
            rows = present[:, self.names.index(name)].bool()
            whole = torch.zeros(len(present), width(self.encoders[name]), device=device)
            if rows.any():
                vectors = self.encoders[name](placed(values[name][rows], device))
                whole = whole.index_put((rows.nonzero().squeeze(1).to(device),), vectors)
            parts.append(whole)
        return torch.cat(parts, dim=1)

    def varied(self, name: str, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return a view of images, as the recipe's augmentation says."""
        modality = self.modalities[name]
        return modality.augment(batch, generator) if modality.augments else batch

    def _wide(self, names: Sequence[str]) -> int:
        return sum(width(self.encoders[name]) for name in names)


class Contrastive(Learner):
    """Each patient's image finds the same patient's tables in the batch, and the other way round (MMCL)."""

    def __init__(self, modalities: Mapping[str, Modality], settings: Pretraining, pool: Pool) -> None:
        super().__init__(modalities, settings)
        self.donors = {name: pool.rows_of(name) for name in self.tables}
        self.sides = nn.ModuleList(
            [_projection(self._wide(names)) for names in (self.images, list(self.tables))]
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the share of images that found their tables; see :meth:`Learner.loss`."""
        values, present = batch
        seen = {name: self.varied(name, values[name], generator) for name in self.images}
        share = self.settings.corruption
        for name, donors in self.donors.items():
            seen[name] = corrupted(values[name], self.owners[name], donors, share, generator)
        image, table = (
            side(self.embedded(list(names), seen, present))
            for side, names in zip(self.sides, (self.images, self.tables), strict=True)
        )
        return info_nce(image, table, self.settings.temperature), {"retrieved": retrieved(image, table)}

    @staticmethod
    def suits(images: Tensor, tables: Tensor) -> Tensor:
        """Return who has both; see :meth:`Learner.suits`."""
        return images & tables


class MaskedColumns(Learner):
    """Hidden fields are told from the others, and from the image where there is one (TIP)."""

    def __init__(self, modalities: Mapping[str, Modality], settings: Pretraining, pool: Pool) -> None:
        super().__init__(modalities, settings)
        self.entries = {name: table.entries() for name, table in self.tables.items()}
        self.blanks = {n: blank(entries, self.tables[n].shape[0]) for n, entries in self.entries.items()}
        features = [table.shape[0] for table in self.tables.values()]
        self.told = nn.Sequential(
            nn.Linear(self._wide(self.names), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, sum(features))
        )
        self.features = features

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of all hidden entries; see :meth:`Learner.loss`."""
        values, present = batch
        seen = {name: self.varied(name, values[name], generator) for name in self.images}
        hidden = self._hidden(values, present, generator)
        for name, columns in hidden.items():
            seen[name] = torch.where(columns, self.blanks[name], values[name])
        told = self.told(self.embedded(self.names, seen, present))
        predicted = torch.split(told, self.features, dim=1)
        total = predicted[0].new_zeros(2)
        for (name, entries), guess in zip(self.entries.items(), predicted, strict=True):
            rows, columns = (tensor.to(guess.device) for tensor in (values[name], hidden[name]))
            total = total + hidden_fields(guess, rows, columns, entries)
        return total[0] / total[1].clamp(min=1), {}

    def _hidden(
        self, values: Mapping[str, Tensor], present: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw the hidden columns of every table at once, ``[batch, feature]``, so that one field stays."""
        known = []
        for name, table in self.tables.items():
            has = present[:, self.names.index(name), None].bool()
            known.append((values[name][:, [p.missing_column for p in table.players()]] == 0) & has)
        fields = chosen(torch.cat(known, dim=1), self.settings.corruption, generator)
        parts = torch.split(fields, [part.shape[1] for part in known], dim=1)
        return {name: part[:, self.owners[name]] for name, part in zip(self.tables, parts, strict=True)}

    @staticmethod
    def suits(images: Tensor, tables: Tensor) -> Tensor:
        """Return who has a table; see :meth:`Learner.suits`."""
        return tables


class SimCLR(Learner):
    """Two random views of an image find each other among those of the batch."""

    takes = (True, False)

    def __init__(self, modalities: Mapping[str, Modality], settings: Pretraining, pool: Pool) -> None:
        super().__init__(modalities, settings)
        self.heads = nn.ModuleDict({name: _projection(self._wide([name])) for name in self.names})

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of the kinds of image, and the share of views that found the other one."""
        values, present = batch
        losses, found = [], []
        for k, name in enumerate(self.names):
            rows = present[:, k].bool()
            if rows.sum() < FEWEST:
                continue
            views = [self.varied(name, values[name][rows], generator) for _ in range(2)]
            first, second = (
                self.heads[name](self.encoders[name](placed(view, next(self.parameters()).device)))
                for view in views
            )
            losses.append(nt_xent(first, second, self.settings.temperature))
            found.append(retrieved(first, second))
        if not losses:  # a batch in which every kind of image has nobody to be told from
            return next(self.parameters()).sum() * 0.0, {"retrieved": 0.0}
        return torch.stack(losses).mean(), {"retrieved": sum(found) / len(found)}

    @staticmethod
    def suits(images: Tensor, tables: Tensor) -> Tensor:
        """Return who has an image; see :meth:`Learner.suits`."""
        return images


LEARNERS: Mapping[str, type[Contrastive] | type[MaskedColumns] | type[SimCLR]] = {
    "contrastive": Contrastive,
    "masked_columns": MaskedColumns,
    "simclr": SimCLR,
}
"""By the word a recipe asks with."""


def _undropped(encoders: nn.Module) -> None:
    """Leave out the dropout that a fit to labels asks for: what is corrupted and varied is chance enough.

    Half of a narrow embedding dropped, as a table's encoder does by default, leaves nothing to be found by.
    """
    for module in encoders.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _projection(features: int) -> nn.Sequential:
    """Return the head that views are compared behind, normalised over the batch as in SimCLR.

    Images of one kind look alike, so that embeddings share most of what they are; without batch norm all
    cosine similarities begin near 1 and stay there. The head is thrown away: no score depends on a batch.
    """
    return nn.Sequential(
        nn.Linear(features, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Linear(features, PROJECTION, bias=False),
        nn.BatchNorm1d(PROJECTION, affine=False),
    )
