from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.attribution.game import Encoded, field_attribution, modality_attribution
from medmm.attribution.reference import (
    base_and_error,
    centroids,
    from_arrays,
    medoids,
    population,
    to_arrays,
)
from medmm.errors import DataError

from .conftest import NAMES, TinyModel, drawn, fields

SEEDS = st.integers(0, 1000)


def shares(present: np.ndarray, weights: np.ndarray) -> dict[tuple[bool, ...], float]:
    """Return the weight of each presence pattern."""
    found: Counter[tuple[bool, ...]] = Counter()
    for row, weight in zip(present, weights, strict=True):
        found[tuple(map(bool, row))] += weight
    return dict(found)


def test_the_population_is_everybody_alike() -> None:
    _, _, whole = drawn(0, count=50)
    assert whole.kind == "population"
    np.testing.assert_allclose(whole.weights, 1 / 50)
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(whole.embeddings[name][~whole.present[:, i]], 0)


def test_a_small_population_is_its_own_medoids() -> None:
    _, _, whole = drawn(0, count=50)
    assert medoids(whole) is whole


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_medoids_are_patients_and_keep_the_shares_of_patterns(seed: int) -> None:
    model, _, whole = drawn(seed, count=300)
    found = medoids(whole, count=60, seed=0)
    assert 50 <= len(found.weights) <= 70
    everybody = {row.tobytes() for row in np.hstack([whole.rows["records"], whole.rows["biomarkers"]])}
    for row in np.hstack([found.rows["records"], found.rows["biomarkers"]]):
        assert row.tobytes() in everybody
    assert shares(found.present, found.weights) == pytest.approx(shares(whole.present, whole.weights))
    base, error = base_and_error(model, found)
    assert base_and_error(model, whole)[1] == 0
    assert error > 0
    assert abs(base - base_and_error(model, whole)[0]) < 4 * error


@given(seed=SEEDS, count=st.integers(11, 120))
@settings(max_examples=25, deadline=None)
def test_centroids_stand_for_at_least_eleven_each(seed: int, count: int) -> None:
    model, _, whole = drawn(seed, count=count)
    found = centroids(whole, model)
    assert found.kind == "centroids"
    assert found.weights.min() >= 11 / count - 1e-12
    assert found.weights.sum() == pytest.approx(1)
    # No training patient's row comes back, unless eleven or more of them share it.
    for name, table in found.rows.items():
        there = found.present[:, NAMES.index(name)]
        for row in table[there]:
            assert (whole.rows[name] == row).all(axis=1).sum() in {0, *range(11, count + 1)}


@given(seed=SEEDS, count=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_explanations_against_centroids_add_up(seed: int, count: int) -> None:
    model, patient, whole = drawn(seed, count=count)
    found = centroids(whole, model)
    shares_ = modality_attribution(model, patient, found, outcome="x")
    assert abs(shares_.residual) < 1e-9
    if patient.present[1]:
        by_field = field_attribution(model, patient, found, "records", fields("records"), outcome="x")
        assert abs(by_field.residual) < 1e-9


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_centroids_embedding_is_its_encoded_row(seed: int) -> None:
    model, _, whole = drawn(seed, count=80)
    found = centroids(whole, model)
    for name in found.rows:
        there = found.present[:, NAMES.index(name)]
        expected = model.encode(name, found.rows[name][there])
        np.testing.assert_array_equal(found.embeddings[name][there], expected)
    # The row of an absent table knows nothing.
    for name, table in found.rows.items():
        absent = table[~found.present[:, NAMES.index(name)]]
        assert (absent[:, [p.missing_column for p in fields(name)]] == 1).all()


def test_the_mean_over_centroids_is_the_mean_over_patients() -> None:
    rng = np.random.default_rng(0)
    model = TinyModel(0)
    everything = np.ones((200, 3), dtype=bool)
    embeddings = {name: rng.normal(size=(200, 3)).astype(np.float32) for name in NAMES}
    rows = {
        name: rng.normal(size=(200, w)).astype(np.float32) for name, w in (("records", 7), ("biomarkers", 4))
    }
    whole = population(NAMES, everything, embeddings, rows)
    found = centroids(whole, model)
    assert 5 <= len(found.weights) <= 200 // 11
    np.testing.assert_allclose(found.weights @ found.rows["records"], rows["records"].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        found.weights @ found.embeddings["scan"], embeddings["scan"].mean(axis=0), atol=1e-6
    )


def test_a_rare_pattern_joins_the_nearest_one() -> None:
    model, _, whole = drawn(3, count=60)
    present = np.ones((60, 3), dtype=bool)
    present[:4, 0] = False
    whole = population(NAMES, present, whole.embeddings, whole.rows)
    found = centroids(whole, model)
    assert found.present.all()
    assert found.weights.sum() == pytest.approx(1)


def test_fewer_than_eleven_patients_are_one_centroid() -> None:
    model, _, whole = drawn(3, count=7)
    found = centroids(whole, model)
    assert len(found.weights) == 1
    np.testing.assert_array_equal(found.present[0], 2 * whole.present.sum(axis=0) > 7)


def test_the_same_seed_gives_the_same_centroids() -> None:
    model, _, whole = drawn(3, count=100)
    assert centroids(whole, model, seed=1).digest == centroids(whole, model, seed=1).digest


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_a_reference_survives_as_arrays(seed: int) -> None:
    model, _, whole = drawn(seed, count=40)
    for reference in (whole, centroids(whole, model)):
        again = from_arrays(to_arrays(reference), NAMES, reference.kind)
        assert again.digest == reference.digest
        changed = to_arrays(reference)
        changed["embeddings.scan"] = changed["embeddings.scan"] + np.float32(1e-3)
        assert from_arrays(changed, NAMES, reference.kind).digest != reference.digest


@pytest.mark.parametrize("broken", ["missing", "more", "nan", "weights", "length", "kind"])
def test_a_damaged_reference_is_refused(broken: str) -> None:
    _, _, whole = drawn(0, count=10)
    arrays, kind = to_arrays(whole), "population"
    if broken == "missing":
        del arrays["embeddings.scan"]
    elif broken == "more":
        arrays["extra"] = np.zeros(3)
    elif broken == "nan":
        arrays["rows.records"] = np.full_like(arrays["rows.records"], np.nan)
    elif broken == "weights":
        arrays["weights"] = np.ones(10)
    elif broken == "length":
        arrays["rows.records"] = arrays["rows.records"][:5]
    else:
        kind = "everybody"
    with pytest.raises(DataError, match="reference population"):
        from_arrays(arrays, NAMES, kind)


def test_an_empty_population_is_refused() -> None:
    with pytest.raises(DataError, match="at least one patient"):
        population(("scan",), np.zeros((0, 1), dtype=bool), {"scan": np.zeros((0, 2), np.float32)}, {})


def test_an_image_alone_needs_no_rows() -> None:
    model = TinyModel(0)
    blank = {name: np.zeros((30, 3), np.float32) for name in NAMES}
    whole = population(NAMES, np.tile([True, False, False], (30, 1)), blank, {})
    patient = Encoded({"scan": np.ones(3, np.float32)}, {}, np.array([True, False, False]))
    found = modality_attribution(model, patient, centroids(whole, model), outcome="x")
    assert found.values[1:] == (0.0, 0.0)
    assert abs(found.residual) < 1e-9
