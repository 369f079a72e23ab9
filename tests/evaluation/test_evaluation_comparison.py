from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.errors import DataError
from medmm.evaluation.comparison import verdict

SEEDS = st.integers(0, 2**32 - 1)


def patients(seed: int, count: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, folds and the scores of two mediocre table models."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4 == 0
    weak = rng.normal(size=(2, count)) + 0.7 * labels
    return labels, np.arange(count) % 5, weak[0], weak[1]


@given(seed=SEEDS)
@settings(max_examples=25)
def test_a_copy_of_the_tables_never_helps(seed: int) -> None:
    labels, folds, tables, trees = patients(seed)
    copy = 2 * tables + 10 * folds
    found = verdict(labels, folds, {"fused": copy, "tables": tables, "trees": trees}, resamples=200)
    assert found.word == "does not help"
    assert found.differences["tables"].upper == 0


@given(seed=SEEDS)
@settings(max_examples=25)
def test_a_perfect_image_helps(seed: int) -> None:
    labels, folds, tables, trees = patients(seed)
    found = verdict(
        labels, folds, {"fused": 10.0 * labels, "tables": tables, "trees": trees}, resamples=200, seed=seed
    )
    assert found.word == "helps"
    assert found.aurocs["fused"].value == 1


@given(seed=SEEDS)
@settings(max_examples=25)
def test_the_comparison_is_symmetric(seed: int) -> None:
    labels, folds, one, other = patients(seed)
    there = verdict(labels, folds, {"fused": one, "tables": other}, resamples=200).differences["tables"]
    back = verdict(labels, folds, {"fused": other, "tables": one}, resamples=200).differences["tables"]
    np.testing.assert_allclose(
        [there.value, there.lower, there.upper], [-back.value, -back.upper, -back.lower], atol=1e-12
    )


@given(seed=SEEDS)
@settings(max_examples=25)
def test_the_word_follows_from_the_intervals(seed: int) -> None:
    labels, folds, tables, trees = patients(seed)
    fused = tables + np.random.default_rng(seed).normal(size=len(labels)) * 0.5 + 0.4 * labels
    found = verdict(labels, folds, {"fused": fused, "tables": tables, "trees": trees}, resamples=200)
    gains = list(found.differences.values())
    if all(gain.lower > 0 for gain in gains):
        assert found.word == "helps"
    else:
        excluded = any(gain.upper < found.margin for gain in gains)
        assert found.word == ("does not help" if excluded else "cannot tell")


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels, folds, tables, _ = patients(0, count=300)
    fused = tables + rng.normal(size=300) * 0.1
    found = verdict(labels, folds, {"fused": fused, "tables": tables})
    paired = found.differences["tables"].upper - found.differences["tables"].lower
    alone = found.aurocs["fused"].upper - found.aurocs["fused"].lower
    assert paired < alone / 3


def test_few_patients_cannot_tell_and_the_sentence_says_so() -> None:
    labels, _, tables, _ = patients(3, count=24)
    fused = tables + 0.3 * labels + np.random.default_rng(8).normal(size=24)
    found = verdict(labels, np.zeros(24, dtype=int), {"fused": fused, "tables": tables})
    assert found.word == "cannot tell"
    assert found.sentence().startswith("These data cannot tell whether the image helps: on 24 patients")
    assert "(6 events)" in found.sentence()


def test_a_table_model_that_the_fused_one_does_not_beat_decides() -> None:
    labels, folds, weak, _ = patients(0)
    strong = 10.0 * labels
    found = verdict(labels, folds, {"fused": strong, "tables": weak, "trees": strong, "image": weak})
    assert found.word == "does not help"
    assert "a gain of 0.02 or more over trees is excluded" in found.sentence()
    assert "image " in found.sentence()


def test_the_sentence_tells_what_the_image_adds_from_how_the_best_rival_fares() -> None:
    labels, folds, tables, trees = patients(0)
    trees = trees + 2.0 * labels
    fused = tables + 1.0 * labels
    found = verdict(labels, folds, {"fused": fused, "tables": tables, "trees": trees, "image": -tables})
    gain, behind = (found.differences[name] for name in ("tables", "trees"))
    assert gain.lower > 0 > behind.value
    sentence = found.sentence()
    assert f"the image adds {gain.value:+.2f} ({gain.lower:+.2f} to" in sentence
    assert f"to the same network without it (tables {found.aurocs['tables'].value:.2f})" in sentence
    rival = (
        f"against the best rival without the image (trees {found.aurocs['trees'].value:.2f}) the difference"
    )
    assert f"{rival} is {behind.value:+.2f} (" in sentence
    assert f"; image {found.aurocs['image'].value:.2f}, difference +" in sentence
    alone = verdict(labels, folds, {"fused": fused, "tables": tables, "image": -tables}).sentence()
    assert "to the same network without it, also the best rival, (tables" in alone
    assert "same network" not in verdict(labels, folds, {"fused": fused, "trees": trees}).sentence()


@pytest.mark.parametrize(
    ("labels", "folds", "events"),
    [([0, 0, 0, 0], [0, 0, 1, 1], 0), ([1, 1], [0, 1], 2), ([0, 0, 1, 1], [0, 0, 1, 1], 2), ([], [], 0)],
)
def test_without_a_pair_it_cannot_tell_and_says_of_how_many(
    labels: list[int], folds: list[int], events: int
) -> None:
    scores = np.arange(len(labels), dtype=float)
    groups = np.array(folds, dtype=int)
    found = verdict(labels, groups, {"fused": scores, "tables": scores})
    assert (found.word, found.patients, found.events) == ("cannot tell", len(labels), events)
    assert (found.aurocs, found.differences) == ({}, {})
    assert found.sentence() == (
        f"These data cannot tell whether the image helps: on {len(labels)} patients with the image"
        f" ({events} events), no event can be compared with a non-event of the same fold."
    )
    with pytest.raises(DataError, match="finite scores"):
        verdict(labels, groups, {"fused": scores, "tables": [*scores, np.nan]})


@pytest.mark.parametrize("missing", ["fused", "tables"])
def test_a_missing_model_is_named(missing: str) -> None:
    labels, folds, tables, trees = patients(0)
    predictions = {"fused": tables, "tables": trees, "image": trees}
    del predictions[missing]
    with pytest.raises(DataError, match=missing):
        verdict(labels, folds, predictions)
