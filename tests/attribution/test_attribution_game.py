from __future__ import annotations

import dataclasses
import warnings
from itertools import permutations
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medmm.attribution.game import (
    Budget,
    Encoded,
    Reference,
    field_attribution,
    modality_attribution,
    receipt,
)
from medmm.errors import ExplanationError
from medmm.sample import Player

from .conftest import NAMES, WIDTH, TinyModel, drawn, fields

SEEDS = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def shap() -> ModuleType:
    """The oracle; its import alone warns of what matplotlib will one day change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

    return shap


def score(model: TinyModel, patient: Encoded) -> float:
    """Return the logit as scoring computes it: the patient alone, absent modalities as zeros."""
    alone = {n: np.atleast_2d(patient.embeddings.get(n, np.zeros(WIDTH, np.float32))) for n in NAMES}
    return float(model.fuse(alone, patient.present[None])[0])


def value(model: TinyModel, patient: Encoded, reference: Reference, players: set[str]) -> float:
    """Return a coalition's value by definition, one reference patient at a time.

    Players are modalities, or fields of the records; "records" stands for all of its fields.
    """
    inside = {"age", "stage"} if "records" in players else players & {"age", "stage"}
    total = 0.0
    for r, weight in enumerate(reference.weights):
        embeddings, present = {}, []
        for i, name in enumerate(NAMES):
            own = name in players or (name == "records" and len(inside) == 2)
            there = patient.present[i] if own else reference.present[r, i]
            embedding = patient.embeddings.get(name) if own else reference.embeddings[name][r]
            if name == "records" and len(inside) == 1:
                row = reference.rows[name][r].copy()
                for player in fields(name):
                    if player.name in inside:
                        row[list(player.columns)] = patient.rows[name][list(player.columns)]
                there = any(row[player.missing_column] < 1 for player in fields(name))
                embedding = model.encode(name, row[None])[0]
            present.append(there)
            embeddings[name] = np.zeros((1, WIDTH)) if embedding is None else embedding[None]
        total += weight * model.fuse(embeddings, np.array([present]))[0]
    return float(total)


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_modalities_add_up_to_the_score(seed: int) -> None:
    model, patient, reference = drawn(seed)
    found = modality_attribution(model, patient, reference, outcome="x")
    assert abs(found.residual) < 1e-9
    assert abs(receipt(found, score(model, patient))) < 1e-9
    base = reference.weights @ model.fuse(reference.embeddings, reference.present)
    assert found.base == pytest.approx(float(base))


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_modality_shares_are_the_definition(seed: int) -> None:
    model, patient, reference = drawn(seed)
    expected = dict.fromkeys(NAMES, 0.0)
    for order in permutations(NAMES):
        for i, name in enumerate(order):
            before = value(model, patient, reference, set(order[:i]))
            expected[name] += (value(model, patient, reference, set(order[: i + 1])) - before) / 6
    found = modality_attribution(model, patient, reference, outcome="x")
    np.testing.assert_allclose(found.values, list(expected.values()), atol=1e-9)


@given(seed=SEEDS, name=st.sampled_from(["records", "biomarkers"]))
@settings(max_examples=60, deadline=None)
def test_fields_add_up_to_their_modality_and_to_the_score(seed: int, name: str) -> None:
    model, patient, reference = drawn(seed)
    assume(patient.present[NAMES.index(name)])
    shares = modality_attribution(model, patient, reference, outcome="x")
    found = field_attribution(model, patient, reference, name, fields(name), outcome="x")
    by_name = dict(zip(shares.names, shares.values, strict=True))
    assert found.names == (*(p.name for p in fields(name)), *(n for n in NAMES if n != name))
    assert sum(found.values[:2]) == pytest.approx(by_name[name], abs=1e-9)
    assert found.values[2:] == tuple(by_name[n] for n in NAMES if n != name)
    assert found.base == shares.base
    assert abs(receipt(found, score(model, patient))) < 1e-9


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_field_shares_are_the_owen_value_by_definition(seed: int) -> None:
    model, patient, reference = drawn(seed, count=3)
    assume(patient.present[1])
    players = ("scan", "biomarkers", "age", "stage")
    orders = [o for o in permutations(players) if abs(o.index("age") - o.index("stage")) == 1]
    expected = dict.fromkeys(players, 0.0)
    for order in orders:
        for i, name in enumerate(order):
            before = value(model, patient, reference, set(order[:i]))
            after = value(model, patient, reference, set(order[: i + 1]))
            expected[name] += (after - before) / len(orders)
    found = field_attribution(model, patient, reference, "records", fields("records"), outcome="x")
    np.testing.assert_allclose(found.values, [expected[n] for n in found.names], atol=1e-6)


def test_modality_shares_equal_shap(tiny: tuple[TinyModel, Encoded, Reference], shap: ModuleType) -> None:
    model, patient, reference = tiny
    sets = {}

    def closure(masks: np.ndarray) -> np.ndarray:
        return np.array(
            [
                sets.setdefault(
                    tuple(mask),
                    value(model, patient, reference, {n for n, m in zip(NAMES, mask, strict=True) if m}),
                )
                for mask in masks
            ]
        )

    exact = shap.ExactExplainer(closure, shap.maskers.Independent(np.zeros((1, 3))))(np.ones((1, 3)))
    kernel = shap.KernelExplainer(closure, np.zeros((1, 3))).shap_values(np.ones((1, 3)), silent=True)
    found = modality_attribution(model, patient, reference, outcome="x")
    np.testing.assert_allclose(found.values, exact.values[0], atol=1e-9)
    np.testing.assert_allclose(found.values, kernel[0], atol=1e-6)
    assert found.base == pytest.approx(float(exact.base_values[0]))


def many_fields(count: int) -> tuple[TinyModel, Encoded, Reference, tuple[Player, ...]]:
    """Return a game in which the records have ``count`` fields of two columns."""
    model, patient, reference = drawn(next(s for s in range(100) if drawn(s)[1].present.all()))
    rng = np.random.default_rng(7)
    table = rng.normal(size=(len(reference.weights) + 1, 2 * count)).astype(np.float32)
    table[:, 1::2] = rng.random((len(table), count)) < 0.2
    model.encoders["records"] = rng.normal(size=(2 * count, WIDTH)) / np.sqrt(count)
    there = (table[:, 1::2] < 1).any(axis=1)
    encoded = model.encode("records", table)
    players = tuple(Player(f"f{i}", f"F{i}", (2 * i, 2 * i + 1), 2 * i + 1) for i in range(count))
    patient = Encoded(
        {**patient.embeddings, "records": encoded[0]}, {**patient.rows, "records": table[0]}, patient.present
    )
    present = reference.present.copy()
    present[:, 1] = there[1:]
    reference = dataclasses.replace(
        reference,
        present=present,
        embeddings={**reference.embeddings, "records": encoded[1:]},
        rows={**reference.rows, "records": table[1:]},
    )
    return model, patient, reference, players


def test_sampled_fields_add_up_and_agree_with_the_exact_ones_within_their_errors() -> None:
    model, patient, reference, players = many_fields(12)
    exact = field_attribution(
        model, patient, reference, "records", players, outcome="x", budget=Budget(exact_up_to=12)
    )
    drawn_ = field_attribution(
        model, patient, reference, "records", players, outcome="x", budget=Budget(coalitions=300, seed=1)
    )
    assert set(exact.errors) == {0.0}
    assert drawn_.errors[12:] == (0.0, 0.0)
    assert min(drawn_.errors[:12]) > 0
    assert max(drawn_.errors) < 0.05
    missed = np.array(drawn_.values[:12]) - exact.values[:12]
    assert np.all(np.abs(missed) < 5 * np.array(drawn_.errors[:12]))
    assert abs(drawn_.residual) < 1e-9


def test_field_shares_equal_shap_when_the_table_is_all_there_is(shap: ModuleType) -> None:
    model, patient, reference, players = many_fields(6)
    only = np.array([False, True, False])
    patient = dataclasses.replace(patient, present=patient.present & only)
    reference = dataclasses.replace(reference, present=reference.present & only)

    def closure(masks: np.ndarray) -> np.ndarray:
        owners = np.repeat(np.arange(6), 2)
        rows = np.where(
            masks[:, None, owners] > 0, patient.rows["records"], reference.rows["records"][None]
        ).reshape(-1, 12)
        present = np.zeros((len(rows), 3), dtype=bool)
        present[:, 1] = (rows[:, 1::2] < 1).any(axis=1)
        blank = np.zeros((len(rows), WIDTH))
        embeddings = {"scan": blank, "records": model.encode("records", rows), "biomarkers": blank}
        return model.fuse(embeddings, present).reshape(len(masks), -1) @ reference.weights

    found = field_attribution(model, patient, reference, "records", players, outcome="x")
    exact = shap.ExactExplainer(closure, shap.maskers.Independent(np.zeros((1, 6))))(np.ones((1, 6)))
    np.testing.assert_allclose(found.values[:6], exact.values[0], atol=1e-6)
    np.testing.assert_allclose(found.values[6:], 0, atol=1e-12)


def test_each_field_coalition_is_encoded_once(tiny: tuple[TinyModel, Encoded, Reference]) -> None:
    model, patient, reference = tiny
    field_attribution(model, patient, reference, "records", fields("records"), outcome="x")
    assert model.encoded == 2 * len(reference.weights)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, patient, reference, players = many_fields(6)
    whole = field_attribution(model, patient, reference, "records", players, outcome="x")
    monkeypatch.setattr("medmm.attribution.game.BATCH", 4)
    parts = field_attribution(model, patient, reference, "records", players, outcome="x")
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-12)


def test_the_reference_patient_itself_has_no_shares(tiny: tuple[TinyModel, Encoded, Reference]) -> None:
    model, patient, reference = tiny
    one = dataclasses.replace(
        reference,
        present=patient.present[None],
        embeddings={n: x[None] for n, x in patient.embeddings.items()},
        rows={n: x[None] for n, x in patient.rows.items()},
        weights=np.ones(1),
    )
    found = modality_attribution(model, patient, one, outcome="x")
    np.testing.assert_allclose(found.values, 0, atol=1e-12)
    assert found.base == pytest.approx(found.logit)


def test_an_absent_table_has_no_fields(tiny: tuple[TinyModel, Encoded, Reference]) -> None:
    model, patient, reference = tiny
    without = dataclasses.replace(patient, present=np.array([True, False, True]))
    with pytest.raises(ExplanationError, match="effect of absence"):
        field_attribution(model, without, reference, "records", fields("records"), outcome="x")


@pytest.mark.parametrize(
    ("players", "says"),
    [
        ((Player("age", "Age", (0, 1), 1),), "belong to no field"),
        ((*fields("records"), Player("again", "Again", (0, 1), 1)), "shares a column"),
    ],
)
def test_players_must_own_every_column_once(
    tiny: tuple[TinyModel, Encoded, Reference], players: tuple[Player, ...], says: str
) -> None:
    model, patient, reference = tiny
    with pytest.raises(ExplanationError, match=says):
        field_attribution(model, patient, reference, "records", players, outcome="x")


def test_the_receipt_refuses_another_logit(tiny: tuple[TinyModel, Encoded, Reference]) -> None:
    model, patient, reference = tiny
    found = modality_attribution(model, patient, reference, outcome="x")
    assert abs(receipt(found, found.logit + 5e-6)) < 1e-5
    for wrong in (found.logit + 2e-5, float("nan")):
        with pytest.raises(ExplanationError, match="miss the score's logit"):
            receipt(found, wrong)


def test_a_damaged_model_is_not_explained(tiny: tuple[TinyModel, Encoded, Reference]) -> None:
    model, patient, reference = tiny
    model.head[0] = np.nan
    with pytest.raises(ExplanationError, match="not finite"):
        modality_attribution(model, patient, reference, outcome="x")
