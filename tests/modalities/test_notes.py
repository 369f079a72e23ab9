from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.columns import NotesSpec
from medmm.errors import BundleError, ConfigError, DataError, FittingError
from medmm.modalities.notes import Notes, NotesSettings
from medmm.modalities.sequences import Pretrained, SequenceSettings
from medmm.modality import present, restored
from medmm.sample import Absence, NotesSource


def notes(**settings: object) -> Notes:
    return Notes("notes", NotesSettings(**({"length": 12, "min_patients": 3} | settings)), NotesSpec())


def note(*texts: str) -> NotesSource:
    return NotesSource(texts, (None,) * len(texts))


COMMON = [
    "Admitted with cough for 3 days.",
    "Admitted with fever for 12 days.",
    "Fever and cough, worse today.",
]
TRAIN = [note(COMMON[i % 3], f"Seen by Dr Surname{chr(97 + i) * 4}, number 90210{i}.") for i in range(9)]


def vocabulary(fitted: Notes) -> set[str]:
    return set(fitted.state()["tokenizer"]["model"]["vocab"])


def test_a_note_becomes_numbers_of_tokens_padded_at_the_end() -> None:
    fitted = notes().fit(TRAIN)
    row = fitted.transform(note("Admitted with cough"))
    assert row.dtype == np.float32
    assert row.shape == fitted.shape == (12,)
    words = [fitted._fitted().id_to_token(int(token)) for token in row if token]
    assert words == ["admitted", "with", "cough"]
    assert row[3:].tolist() == [0.0] * 9


def test_of_a_long_note_the_last_tokens_are_taken_the_newest_note_last() -> None:
    fitted = notes(length=2).fit(TRAIN)
    old, new = "fever", "admitted with cough"
    assert np.array_equal(fitted.transform(note(old, new)), fitted.transform(note("with cough")))


def test_no_token_points_at_a_person() -> None:
    fitted = notes().fit(TRAIN)
    for token in vocabulary(fitted) - {"[PAD]", "[UNK]"}:
        holders = sum(token in source.text.lower() for source in TRAIN)
        assert holders >= 3, token
        assert not (len(token) > 1 and any(character.isdigit() for character in token)), token
        assert "aaaa" not in token
    assert "admitted" in vocabulary(fitted)


@given(
    st.lists(st.lists(st.sampled_from(["cough", "fever", "mumps", "ague"]), max_size=9), min_size=4),
    st.integers(2, 4),
)
@settings(max_examples=12, deadline=None)
def test_every_token_is_part_of_a_word_of_enough_patients(texts: list[list[str]], least: int) -> None:
    counts = {word: sum(word in text for text in texts) for text in texts for word in text}
    shared = [word for word, count in counts.items() if count >= least]
    unfitted = notes(min_patients=least)
    if not shared:
        with pytest.raises(FittingError, match="no word occurs in the notes of"):
            unfitted.fit([note(" ".join(text)) for text in texts])
        return
    fitted = unfitted.fit([note(" ".join(text)) for text in texts])
    assert all(any(t in word for word in shared) for t in vocabulary(fitted) - {"[PAD]", "[UNK]"})


@given(st.randoms(use_true_random=False))
@settings(max_examples=4, deadline=None)
def test_no_order_of_patients_shows(chance: random.Random) -> None:
    shuffled = list(TRAIN)
    chance.shuffle(shuffled)
    assert notes().fit(shuffled).state() == notes().fit(TRAIN).state()


@given(st.text(max_size=60))
@settings(max_examples=20, deadline=None)
def test_any_text_gives_whole_numbers_of_the_vocabulary(text: str) -> None:
    fitted = notes().fit(TRAIN)
    row = fitted.transform(note(text))
    assert np.array_equal(row, row.round())
    assert row.min() >= 0
    assert 1 <= row.max() < len(vocabulary(fitted))
    assert present(fitted.players(), row)
    again = restored(notes(), json.loads(json.dumps(fitted.state())))
    assert np.array_equal(again.transform(note(text)), row)


def test_a_note_of_unknown_words_is_warned_of_without_its_words() -> None:
    fitted = notes().fit(TRAIN)
    assert fitted.warnings(TRAIN[0]) == ()
    assert fitted.warnings(note("жж жжж")) == ("notes: most words were (almost) unseen in training",)


def test_a_given_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    trained = notes().fit(TRAIN)
    (tmp_path / "tokenizer.json").write_text(trained._json)
    given_one = notes(tokenizer="tokenizer.json")
    given_one.folder = tmp_path
    assert given_one.fit([]).state() == trained.state()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        given_one.fit(TRAIN)


def test_a_hugging_face_folder_is_explained(tmp_path: Path) -> None:
    block = SequenceSettings(pretrained=Pretrained(file=str(tmp_path)))
    fitted = notes(encoder=block).fit(TRAIN)
    with pytest.raises(ConfigError, match="does not bring `transformers`"):
        fitted.warm_start(fitted.encoder())


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"`notes\.input`"):
        Notes("notes", NotesSettings(), {})
    with pytest.raises(FittingError, match="leave the notes out"):
        notes().fit([note("one"), note("two")])
    with pytest.raises(FittingError, match="has to be fitted"):
        notes().transform(TRAIN[0])
    with pytest.raises(DataError, match="reads notes, not Absence"):
        notes().load(Absence("no_notes"))
    with pytest.raises(BundleError, match="cannot be used"):
        notes().restore({"tokenizer": {"version": "none"}})


def test_scoring_tokenises_without_torch() -> None:
    code = (
        "import sys, json; from medmm.modalities.notes import Notes, NotesSettings;"
        "import medmm.modalities.series, medmm.modalities.waveform;"
        "from medmm.columns import NotesSpec; from medmm.sample import NotesSource;"
        "n = Notes('notes', NotesSettings(), NotesSpec()).restore({'tokenizer': json.load(sys.stdin)});"
        "n.transform(NotesSource(('cough',), (None,)));"
        "heavy = {'torch', 'monai', 'sklearn', 'pandas', 'scipy', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    text = notes().fit(TRAIN)._json
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
