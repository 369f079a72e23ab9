"""What logits of every kind say: probabilities that add up, weighed sums as components, labels refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.calibration import Platt, Shifted, calibration_from_json
from medmm.cohort.outcomes import OutcomeSpec, labels
from medmm.errors import BundleError, DataError
from medmm.outcome import Task, check_labels, components, intervals, levels, part, read, sigmoid, softmax
from medmm.scorer import outcome_of

ILL = Task("ill")
WARD = Task("ward", "multiclass", classes=("home", "ward", "icu"))
GRADE = Task("grade", "ordinal", classes=("low", "middle", "high"))
DEATH = Task("death", "survival", ends=(10.0, 20.0, 30.0))
ALL = (ILL, WARD, GRADE, Task("stay", "regression", unit="d"), DEATH, Task("relapse", "cox", ends=(5.0, 9.0)))

numbers = st.floats(-40, 40)


@settings(deadline=None)
@given(st.lists(numbers, min_size=3, max_size=3), st.floats(0, 5), st.lists(numbers, min_size=3, max_size=3))
def test_the_probabilities_of_classes_add_up_to_one(logits, slope, offsets) -> None:
    found = outcome_of(WARD, np.array(logits), Shifted(slope, tuple(offsets)), None)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.probability == max(found.probabilities.values())
    assert found.probabilities[found.decision] == found.probability
    assert sum(found.logits.values()) == pytest.approx(0, abs=1e-9)  # each against the mean of all


@settings(deadline=None)
@given(numbers, st.floats(0, 5), st.floats(-9, 9), st.floats(0, 9))
def test_the_probabilities_of_levels_add_up_and_none_is_negative(score, slope, first, step) -> None:
    found = outcome_of(GRADE, np.array(score), Shifted(slope, (first, first - step), spread=True), None)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert min(found.probabilities.values()) >= -1e-12


@settings(deadline=None)
@given(st.lists(numbers, min_size=3, max_size=3))
def test_a_survival_curve_only_falls(logits) -> None:
    curve = read(DEATH, np.array(logits))
    assert (np.diff(np.concatenate([[1.0], curve])) <= 0).all()
    by_hand = np.cumprod([1 - sigmoid(np.array(x)) for x in logits])
    assert curve == pytest.approx(by_hand)


def test_a_class_is_explained_by_its_logit_above_the_mean() -> None:
    logits = np.array([2.0, 0.5, -1.0])
    above = [WARD.component(logits, k) for k in range(3)]
    assert above == pytest.approx([1.5, 0.0, -1.5])
    assert softmax(np.array(above)) == pytest.approx(softmax(logits))


def test_components_pick_their_part_of_all_logits() -> None:
    row = np.arange(10.0)[: sum(task.outputs for task in ALL)]
    assert len(row) == 10
    found = {part_.name: float(row @ part_.direction) for part_ in components(ALL)}
    assert list(found) == [
        "ill",
        "ward: home",
        "ward: ward",
        "ward: icu",
        "grade",
        "stay",
        "death",
        "relapse",
    ]
    assert found["ill"] == 0
    assert found["ward: icu"] == pytest.approx(1)
    assert found["death"] == pytest.approx(7)
    assert part(row[None], ALL, 4).tolist() == [[6.0, 7.0, 8.0]]
    assert part(row[None], ALL, 3).tolist() == [5.0]


def test_proportional_hazards_read_the_baseline() -> None:
    relapse = ALL[-1]
    calibration = Shifted(2.0, (np.log(0.1), np.log(0.3)), spread=True)
    curve = read(relapse, calibration.apply(np.array(0.5)))
    assert curve == pytest.approx(np.exp(-np.array([0.1, 0.3]) * np.exp(1.0)))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_levels_are_differences_of_what_lies_above(shares) -> None:
    above = np.array(sorted(shares, reverse=True))
    assert levels(above).sum() == pytest.approx(1)
    assert (levels(above) >= -1e-12).all()


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.kind)
def test_a_task_survives_json(task: Task) -> None:
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_calibrations_survive_json_and_damage_is_refused() -> None:
    for made in (Platt(1.5, -0.2), Shifted(0.7, (0.1, -0.2), spread=True)):
        assert calibration_from_json(json.loads(json.dumps(made.to_json()))) == made
    with pytest.raises(BundleError):
        calibration_from_json({"method": "shifted", "slope": -1.0, "offsets": [0.0]})
    with pytest.raises(BundleError):
        calibration_from_json({"method": "shifted", "slope": 1.0, "offsets": []})


def test_intervals_have_as_many_events_each() -> None:
    times = np.concatenate([np.arange(1.0, 101), -np.arange(1.0, 101)])
    ends = intervals(times)
    assert len(ends) == 10
    assert ends[-1] == 100
    counts = np.histogram(times[times > 0], bins=[0, *np.array(ends) + 1e-9])[0]
    assert counts.min() >= 9
    assert counts.max() <= 11
    assert intervals(np.array([3.0, -9.0, 7.0])) == (7.0,)


SURVIVAL = {"table": "x", "kind": "survival", "event": "died", "positive": 1, "negative": 0}


def test_a_time_is_positive_where_the_event_was_seen() -> None:
    spec = OutcomeSpec.model_validate(SURVIVAL)
    found = labels({"a": ("12", "1"), "b": ("30", "0"), "c": ("", "1"), "d": ("4", "")}, "death", spec)
    assert found == {"a": 12.0, "b": -30.0}


@pytest.mark.parametrize("time", ["0", "-3"])
def test_a_time_of_zero_or_below_is_refused_in_one_line(time: str) -> None:
    with pytest.raises(DataError, match=r"1 of 2 times in x are 0 or below") as caught:
        labels({"a": (time, "1"), "b": ("30", "0")}, "death", OutcomeSpec.model_validate(SURVIVAL))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        (WARD, [np.nan, np.nan], "no training patient has a label"),
        (WARD, [0.0, 1.0], "none of 2 training patients is 'icu'"),
        (Task("stay", "regression"), [4.0, 4.0], "all 2 labels are 4"),
        (DEATH, [-4.0, -5.0], "every training patient is censored"),
    ],
)
def test_an_outcome_that_nothing_can_be_learned_of_is_refused(task: Task, given, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        check_labels(task, np.array(given))
    assert "\n" not in str(caught.value)


def test_words_that_are_no_class_are_refused_without_being_told() -> None:
    spec = OutcomeSpec.model_validate({"table": "x", "kind": "multiclass", "classes": ["a", "b", "c"]})
    assert labels({"p": ("b",), "q": ("c",)}, "ward", spec) == {"p": 1.0, "q": 2.0}
    with pytest.raises(DataError, match="1 words that are none of its 3 classes") as caught:
        labels({"p": ("b",), "q": ("secret",)}, "ward", spec)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "multiclass"}, "three or more different `classes`"),
        ({"kind": "ordinal", "classes": ["a", "a", "b"]}, "three or more different `classes`"),
        ({"kind": "binary"}, "which word is `positive`"),
        ({"kind": "binary", "positive": 1, "classes": ["a"]}, "a binary outcome has no `classes`"),
        ({"kind": "survival", "positive": 1}, "names its `event` column"),
        ({**SURVIVAL, "ends": [5, 3]}, "each later than the one before"),
    ],
)
def test_a_declaration_that_is_not_of_its_kind_is_refused(given, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OutcomeSpec.model_validate({"table": "x", **given})
