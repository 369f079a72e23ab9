from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmm.columns import MISSING, FieldSpec, ResultSpec, Status, Value
from medmm.errors import BundleError, ConfigError, DataError, FittingError
from medmm.modalities.biomarkers import Biomarkers
from medmm.modalities.fields import RARE
from medmm.modalities.records import Records
from medmm.modalities.tables import TableEncoderSettings, TableSettings
from medmm.modality import Stacked, present, restored, stacked

FIELDS = {
    "age": FieldSpec(role="input", kind="number", unit="a", label="Age", reference=(18, 110)),
    "sex": FieldSpec(role="input", kind="category", label="Sex"),
    "stage": FieldSpec(role="input", kind="ordinal", levels=("I", "II", "III")),
    "smoker": FieldSpec(role="input", kind="flag"),
    "site": FieldSpec(role="subgroup"),
}
RESULTS = {
    "psa": ResultSpec(role="input", code="2857-1", unit="ng/mL", scale="log", label="PSA"),
    "crp": ResultSpec(role="input", name="crp", unit="mg/L", summary=("last", "max", "count")),
}


def records() -> Records:
    return Records("records", TableSettings(), FIELDS)


def biomarkers() -> Biomarkers:
    return Biomarkers("biomarkers", TableSettings(), RESULTS)


def cell(value: float | str | None) -> Value:
    return MISSING if value is None else Value(value)


def row(age: float | None, sex: str | None, stage: str | None, smoker: str | None) -> dict[str, Value]:
    return {"age": cell(age), "sex": cell(sex), "stage": cell(stage), "smoker": cell(smoker)}


TRAIN = [row(40 + i, "fm"[i % 2], ("I", "II", "III")[i % 3], ("yes", "no", "1")[i % 3]) for i in range(12)]
EMPTY = row(None, None, None, None)

ages = st.none() | st.floats(-1e6, 1e6)
rows = st.builds(
    row,
    ages,
    st.sampled_from([None, "f", "m", "x", " f "]),
    st.sampled_from([None, "I", "II", "III", "IV"]),
    st.sampled_from([None, "yes", "no", "perhaps", "0"]),
)


def column(table: Records | Biomarkers, vector: np.ndarray, name: str) -> float:
    return float(vector[table.feature_names.index(name)])


def test_a_known_row_has_these_columns() -> None:
    fitted = records().fit(TRAIN)
    vector = fitted.transform(row(45.5, "f", "II", "yes"))
    assert vector.dtype == np.float32
    assert vector.shape == fitted.shape == (len(fitted.feature_names),)
    assert dict(zip(fitted.feature_names, vector.tolist(), strict=True)) == {
        "age": 0.0,
        "age missing": 0.0,
        "sex=f": 1.0,
        "sex=m": 0.0,
        "sex other": 0.0,
        "sex missing": 0.0,
        "stage": 0.0,
        "stage missing": 0.0,
        "smoker": 1.0,
        "smoker missing": 0.0,
    }


def test_an_empty_row_is_imputed_and_marked() -> None:
    ages = [1.0, 2.0, 30.0]
    fitted = records().fit([row(a, None, None, "yes") for a in ages])
    vector = fitted.transform(EMPTY)
    assert column(fitted, vector, "age") == pytest.approx((2 - 11) / np.std(ages))
    assert column(fitted, vector, "smoker") == 1.0
    assert [column(fitted, vector, f"{f} missing") for f in ("age", "sex", "stage", "smoker")] == [1.0] * 4
    assert not present(fitted.players(), vector)
    assert present(fitted.players(), fitted.transform(row(None, None, None, "no")))


def test_rare_and_unseen_categories_share_the_unknown_token() -> None:
    few = [row(50, "x", "I", "no")] * (RARE - 1)
    fitted = records().fit([*TRAIN, *few])
    for word in ("x", "never seen"):
        vector = fitted.transform(row(50, word, "I", "no"))
        assert column(fitted, vector, "sex other") == 1.0
        assert column(fitted, vector, "sex=f") == column(fitted, vector, "sex missing") == 0.0
        assert fitted.warnings(row(50, word, "I", "no")) == ("Sex: a category (almost) unseen in training",)


def test_warnings_name_the_label_and_never_the_value() -> None:
    fitted = records().fit(TRAIN)
    assert fitted.warnings(TRAIN[0]) == ()
    assert fitted.warnings(EMPTY) == ()
    found = fitted.warnings(row(123456, "f", "IV", "perhaps"))
    assert found == (
        "Age: outside the usual range of the training patients",
        "stage: a level that is not declared, so not used",
        "smoker: neither yes nor no, so not used",
    )


@pytest.mark.parametrize("patients", [60, 200, 2000])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_few_of_those_who_are_like_the_training_patients_are_called_unusual(
    patients: int, scale: str
) -> None:
    declared = {"crp": FieldSpec(role="input", kind="number", scale=scale)}
    rng = np.random.default_rng(7)

    def drawn(count: int) -> list[dict[str, Value]]:
        normal = rng.normal(3, 1, count)
        numbers = np.exp(normal) if scale == "log" else normal
        return [{"crp": Value(float(x), text=f"{x}")} for x in numbers]

    fitted = Records("records", TableSettings(), declared).fit(drawn(patients))
    share = sum(bool(fitted.warnings(one)) for one in drawn(2000)) / 2000
    assert share < 0.06
    far = np.exp(9.0) if scale == "log" else 9.0
    assert fitted.warnings({"crp": Value(float(far), text="far")})


def test_a_constant_field_is_zero_whatever_comes_later() -> None:
    fitted = records().fit([row(0.1 + 0.2, "f", "I", "no")] * 7)
    assert column(fitted, fitted.transform(row(99, "f", "I", "no")), "age") == 0.0


def test_a_field_that_training_never_knew_stays_missing() -> None:
    fitted = records().fit([row(None, "f", "I", "no")] * 4)
    vector = fitted.transform(row(77, None, None, None))
    assert column(fitted, vector, "age missing") == 1.0
    assert fitted.warnings(row(77, None, None, None)) == ("Age: never known in training, so not used",)


def test_a_log_scale_is_logarithmic_and_free_of_the_unit() -> None:
    def logs(factor: float) -> list[float]:
        values = [0.0, 0.5, 4.0, 40.0, 400.0]
        crp = {"crp:last": cell(None), "crp:max": cell(None), "crp:count": cell(None)}
        train = [{"psa": cell(v * factor), **crp} for v in values]
        fitted = biomarkers().fit(train)
        return [column(fitted, fitted.transform(r), "psa") for r in train]

    assert logs(1.0) == pytest.approx(logs(1000.0), abs=1e-6)
    zero, half, four, forty, most = logs(1.0)
    assert (most - forty) == pytest.approx(forty - four, rel=0.15)
    assert zero < half < four


def test_a_number_among_the_records_may_be_logarithmic_too() -> None:
    def spread(**scale: str) -> list[float]:
        fields = {"size": FieldSpec.model_validate({"role": "input", "kind": "number", **scale})}
        block = Records("records", TableSettings(), fields)
        train = [{"size": cell(value)} for value in (1.0, 10.0, 100.0)]
        fitted = block.fit(train)
        return [column(fitted, fitted.transform(r), "size") for r in train]

    one, ten, hundred = spread(scale="log")
    assert (hundred - ten) == pytest.approx(ten - one, rel=0.4)
    one, ten, hundred = spread()
    assert (hundred - ten) == pytest.approx(10 * (ten - one))
    with pytest.raises(ValueError, match="a `scale` is of a field of kind `number`"):
        FieldSpec.model_validate({"role": "input", "kind": "category", "scale": "log"})


@pytest.mark.parametrize("value", [Value(math.inf, comparator=">"), Value(None, comparator=">")])
def test_a_limit_that_is_not_known_enters_at_the_edge_of_the_training_range(value: Value) -> None:
    fitted = records().fit(TRAIN)
    high = fitted.transform({**TRAIN[0], "age": value})
    assert column(fitted, high, "age") == column(fitted, fitted.transform(row(60, "f", "I", "no")), "age")
    low = fitted.transform({**TRAIN[0], "age": Value(-math.inf, comparator="<")})
    assert column(fitted, low, "age") == column(fitted, fitted.transform(row(40, "f", "I", "no")), "age")


def edges(ages: list[float]) -> tuple[float, float]:
    state = records().fit([row(age, "f", "I", "no") for age in ages]).state()["fields"]["age"]
    return state["low"], state["high"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=120))
def test_the_stored_range_is_no_single_patients_extreme(ages: list[float]) -> None:
    low, high = edges(ages)
    if len(ages) >= 50:
        assert (low, high) == (sorted(ages)[10], sorted(ages)[-11])
    else:
        assert low <= min(ages) <= max(ages) <= high
        assert [low, high] == [float(f"{low:.0e}"), float(f"{high:.0e}")]


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([41.7, 83.2], (40.0, 90.0)),
        ([0.3, 0.31], (0.3, 0.4)),
        ([-0.057, 0.0], (-0.06, 0.0)),
        ([96.0, 960.5], (90.0, 1000.0)),
        ([5e-324, 1e30], (5e-324, 1e30)),
        ([*map(float, range(50))], (10.0, 39.0)),
    ],
)
def test_a_range_is_rounded_outward_or_ranked(ages: list[float], expected: tuple[float, float]) -> None:
    assert edges(ages) == expected


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), st.floats(-1e6, 1e6))
def test_the_stored_range_changes_no_feature_of_a_number(ages: list[float], age: float) -> None:
    ages = [round(x, 3) for x in ages]
    fitted = records().fit([row(x, "f", "I", "no") for x in ages])
    sd = np.std(ages)
    expected = (age - np.mean(ages)) / sd if len(set(ages)) > 1 else 0.0
    found = column(fitted, fitted.transform(row(age, "f", "I", "no")), "age")
    assert found == pytest.approx(min(max(expected, -30), 30), rel=1e-4, abs=1e-4)


def test_a_censored_result_enters_at_its_limit() -> None:
    fitted = records().fit(TRAIN)
    censored = fitted.transform({**TRAIN[0], "age": Value(45.0, text=">45", comparator=">")})
    assert column(fitted, censored, "age") == column(fitted, fitted.transform(row(45, "f", "I", "no")), "age")


def test_a_result_with_several_summaries_is_one_player() -> None:
    def results(psa: float | None, last: float | None, most: float | None) -> dict[str, Value]:
        return {
            "psa": cell(psa),
            "crp:last": cell(last),
            "crp:max": cell(most),
            "crp:count": cell(last and 2),
        }

    fitted = biomarkers().fit([results(1, 2, 3), results(2, 5, 9), results(None, 4, 4)])
    psa, crp = fitted.players()
    assert (psa.name, psa.label, psa.unit) == ("psa", "PSA", "ng/mL")
    assert psa.columns == (0, 1)
    assert crp.columns == tuple(range(2, 9))
    assert crp.missing_column == 8
    assert fitted.transform(results(1, None, 7))[crp.missing_column] == 0
    assert fitted.transform(results(1, None, None))[crp.missing_column] == 1


@given(st.lists(rows, min_size=1, max_size=12), rows, st.randoms(use_true_random=False))
def test_fit_ignores_order_and_state_survives_json_exactly(
    train: list[dict[str, Value]], patient: dict[str, Value], chance: random.Random
) -> None:
    fitted = records().fit(train)
    shuffled = chance.sample(train, len(train))
    again = records().restore(json.loads(json.dumps(records().fit(shuffled).state(), allow_nan=False)))
    vector = fitted.transform(patient)
    assert np.isfinite(vector).all()
    assert vector.tobytes() == again.transform(patient).tobytes()
    assert again.state() == fitted.state()


@given(rows)
def test_players_own_every_column_once_and_tell_presence(patient: dict[str, Value]) -> None:
    fitted = records().fit(TRAIN)
    vector = fitted.transform(patient)
    players = fitted.players()
    owned = [c for player in players for c in player.columns]
    assert sorted(owned) == list(range(fitted.shape[0]))
    assert all(player.missing_column in player.columns for player in players)
    assert present(players, vector) == any(vector[p.missing_column] == 0 for p in players)


@given(rows)
def test_a_stack_of_members_is_their_vectors_end_to_end(patient: dict[str, Value]) -> None:
    members = [records().fit(TRAIN[:7]), records().fit(TRAIN)]
    stack = stacked(members)
    assert isinstance(stack, Stacked)
    vector = stack.transform(patient)
    start = 0
    for member, width in zip(members, stack.splits, strict=True):
        assert vector[start : start + width].tobytes() == member.transform(patient).tobytes()
        start += width
    assert stack.shape == vector.shape == (start,)
    players = stack.players()
    assert sorted(c for p in players for c in p.columns) == list(range(start))
    first, second = (m.players()[1] for m in members)
    assert players[1].columns == (*first.columns, *(c + members[0].shape[0] for c in second.columns))
    back = restored(records(), json.loads(json.dumps(stack.state())))
    assert back.transform(patient).tobytes() == vector.tobytes()
    assert stack.warnings(patient) == back.warnings(patient)


def test_equal_members_share_one_input() -> None:
    one, two = records().fit(TRAIN), records().fit(TRAIN)
    assert stacked([one, two]) is one
    assert restored(records(), one.state()).state() == one.state()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s["fields"].pop("age"),
        lambda s: s["fields"].update(other={}),
        lambda s: s["fields"]["age"].update(mean=math.nan),
        lambda s: s["fields"]["age"].update(mean="x"),
        lambda s: s["fields"]["smoker"].update(share=2),
        lambda s: s.clear(),
    ],
)
def test_a_spoilt_state_is_refused(spoil: object) -> None:
    state = records().fit(TRAIN).state()
    spoil(state)  # type: ignore[operator]
    with pytest.raises(BundleError, match="records"):
        records().restore(state)


def test_what_cannot_be_fitted_says_so() -> None:
    with pytest.raises(FittingError, match="no training rows"):
        records().fit([])
    with pytest.raises(FittingError, match="has to be fitted"):
        records().transform(TRAIN[0])
    with pytest.raises(DataError, match="'age'"):
        records().fit([{"sex": cell("f")}])
    with pytest.raises(DataError, match="is no number"):
        records().fit([{**TRAIN[0], "age": Value("forty")}])
    with pytest.raises(ConfigError, match="kind 'text'"):
        Records("records", TableSettings(), {"note": FieldSpec(role="input", kind="text")})
    with pytest.raises(ConfigError, match="no field with role"):
        Records("records", TableSettings(), {"site": FIELDS["site"]})


def test_statuses_other_than_known_are_missing() -> None:
    fitted = records().fit(TRAIN)
    for status in set(Status) - {Status.KNOWN}:
        vector = fitted.transform({**TRAIN[0], "age": Value(None, status, text="secret")})
        assert column(fitted, vector, "age missing") == 1.0


def test_a_recipe_can_ask_for_an_ft_transformer() -> None:
    block = TableEncoderSettings(kind="ft_transformer", width=8, layers=1, heads=2)
    fitted = Records("records", TableSettings(encoder=block), FIELDS).fit(TRAIN)
    encoder = fitted.encoder().eval()
    rows = np.stack([fitted.transform(patient) for patient in (*TRAIN, EMPTY)])
    assert encoder.owned.sum(dim=0).tolist() == [len(player.columns) for player in fitted.players()]
    assert encoder(torch.from_numpy(rows)).shape == (len(rows), encoder.out_features) == (len(rows), 8)
    with pytest.raises(ValueError, match="divide its `width`"):
        TableEncoderSettings(kind="ft_transformer", width=10, heads=4)
