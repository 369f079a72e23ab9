"""Clinical notes: as numbers of tokens, by a tokeniser trained on the training split's own notes.

The vocabulary must point at nobody: only words that occur in the notes of at least ``min_patients`` training
patients are learned from, so every token is a part of such a word. Digits are single tokens: no number of
more than one digit can be in it. The tokeniser is stored as its JSON and read without torch.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field

from medmm.columns import Declared, NotesSpec
from medmm.errors import BundleError, ConfigError, DataError, FittingError
from medmm.modalities.sequences import SequenceSettings, WarmStarted
from medmm.modality import Declaration, Modality
from medmm.sample import NotesSource, Player, Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

    from medmm.arrays import Float32

PAD, UNKNOWN = "[PAD]", "[UNK]"
"""Tokens 0 and 1."""

UNFAMILIAR = 0.5
"""A note with a larger share of unknown tokens than this is warned of."""


class NotesSettings(Declared):
    """The notes' block of a recipe.

    Attributes:
        length: tokens taken, the last ones.
        vocabulary: tokens at most.
        min_patients: training patients in whose notes a word must occur to be learned from.
        tokenizer: a tokenizer.json to use instead of training one, relative to the recipe; token 0 is its
            padding. Pretrained weights need the tokeniser that they were trained with.
    """

    length: Annotated[int, Field(ge=1)] = 128
    vocabulary: Annotated[int, Field(ge=16, le=65536)] = 2000
    min_patients: Annotated[int, Field(ge=2)] = 11
    tokenizer: str | None = None
    encoder: SequenceSettings = SequenceSettings()


class Notes(WarmStarted, Modality):
    """The notes declared as ``input``, joined oldest to newest.

    ``transform`` gives the numbers of the last ``length`` tokens as float32, 0 where there are fewer. There
    are no Shapley players below the modality: the words of one patient have no counterpart in another's.

    Raises:
        ConfigError: if the cohort hands out no notes, or ``pretrained`` names a folder.
    """

    kind = "notes"
    Settings = NotesSettings
    settings: NotesSettings

    def __init__(self, name: str, settings: Declared, declaration: Declaration) -> None:
        super().__init__(name, settings, declaration)
        self._json = ""
        self._tokenizer: Tokenizer | None = None
        if not isinstance(declaration, NotesSpec):
            raise ConfigError(
                f"modality {name!r} is of kind 'notes' but the cohort hands out no notes; declare"
                " `notes.input`"
            )

    def load(self, source: Source) -> NotesSource:
        """Return the notes themselves.

        Raises:
            DataError: if the source is none.
        """
        if not isinstance(source, NotesSource):
            raise DataError(f"modality {self.name!r} reads notes, not {type(source).__name__}")
        return source

    def fit(self, loaded: Iterable[NotesSource]) -> Self:
        """Return a copy with a tokeniser of the training split's notes, in any order, or with the one given.

        Raises:
            FittingError: if no word occurs in the notes of enough patients.
            ConfigError: if the given tokeniser cannot be read.
        """
        if self.settings.tokenizer:
            file = self.folder / self.settings.tokenizer
            try:
                return self._with(file.read_text())
            except (OSError, UnicodeDecodeError, ValueError) as error:
                raise ConfigError(
                    f"modality {self.name!r}: the tokeniser {file} cannot be read: {error}"
                ) from error
        return self._with(self._train(note.text for note in loaded))

    def _train(self, texts: Iterable[str]) -> str:
        """Return the JSON of a byte-pair encoding of the words that enough patients share.

        Source: Sennrich et al. 2016.
        """
        from tokenizers import trainers

        tokenizer = _untrained()
        patients, times = Counter[str](), Counter[str]()
        for text in texts:
            words = _words(tokenizer, text)
            times.update(words)
            patients.update(set(words))
        shared = sorted(word for word, count in patients.items() if count >= self.settings.min_patients)
        if not shared:
            raise FittingError(
                f"modality {self.name!r}: no word occurs in the notes of {self.settings.min_patients}"
                " training patients, so nothing can be learned that would not point at one; leave the notes"
                " out, or give a `tokenizer`"
            )
        trainer = trainers.BpeTrainer(
            vocab_size=self.settings.vocabulary, special_tokens=[PAD, UNKNOWN], show_progress=False
        )
        tokenizer.train_from_iterator(_repeated(shared, times), trainer)
        return tokenizer.to_str()

    def transform(self, loaded: NotesSource) -> Float32:
        """Return ``[length]``: numbers of tokens, padded with 0 at the end; whole numbers."""
        tokens = self._fitted().encode(loaded.text, add_special_tokens=False).ids
        found = tokens[-self.settings.length :] or [1]
        row = np.zeros(self.settings.length, np.float32)
        row[: len(found)] = found
        return row

    @property
    def shape(self) -> tuple[int, ...]:
        """One axis: the tokens."""
        return (self.settings.length,)

    def players(self) -> tuple[Player, ...]:
        """Return none; see the class."""
        return ()

    def warnings(self, loaded: NotesSource) -> tuple[str, ...]:
        """Say where most of the tokens are unknown."""
        row = self.transform(loaded)
        unknown = (row == 1).sum() / max(1, (row > 0).sum())
        return (f"{self.name}: most words were (almost) unseen in training",) if unknown > UNFAMILIAR else ()

    def encoder(self) -> nn.Module:
        """Return a fresh encoder of token sequences; see :mod:`medmm.encoders.notes`."""
        from medmm.encoders.notes import NotesEncoder

        block = self.settings.encoder
        return NotesEncoder(
            self._fitted().get_vocab_size(),
            self.settings.length,
            block.kind,
            block.width,
            layers=block.layers,
            heads=block.heads,
            dropout=block.dropout,
        )

    def warm_start(self, encoder: nn.Module) -> None:
        """Read the weights to begin with, where the recipe names a file.

        Raises:
            ConfigError: if the file is not of this encoder, or is a folder.
        """
        wanted = self.settings.encoder.pretrained
        if not wanted:
            return
        file = self.folder / wanted.file
        if file.is_dir():
            raise ConfigError(
                f"modality {self.name!r}: {file.name} is a folder; medmm reads the weights of its own encoder"
                " from one safetensors file and does not bring `transformers`, which a Hugging Face folder"
                " needs. Offer such an encoder as a modality of its own (docs/modalities.md)"
            )
        wanted.fill(encoder, self.folder)

    def state(self) -> dict[str, Any]:
        """Return the tokeniser's JSON."""
        self._fitted()
        return {"tokenizer": json.loads(self._json)}

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Return a copy with the tokeniser of a state.

        Raises:
            BundleError: if it is none.
        """
        try:
            return self._with(json.dumps(state["tokenizer"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"the fitted state of modality {self.name!r} cannot be used: {error}"
            ) from error

    def _with(self, text: str) -> Self:
        from tokenizers import Tokenizer

        fitted = copy.copy(self)
        try:
            fitted._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"no tokeniser: {str(error)[:80]}") from error
        fitted._json = text
        return fitted

    def _fitted(self) -> Tokenizer:
        if self._tokenizer is None:
            raise FittingError(f"modality {self.name!r} has to be fitted, or restored, before it is used")
        return self._tokenizer


def _untrained() -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def _repeated(words: list[str], times: Mapping[str, int]) -> Iterator[str]:
    """Yield each word as often as it was written; in a fixed order, so that ties are broken alike."""
    for word in words:
        yield " ".join([word] * times[word])
