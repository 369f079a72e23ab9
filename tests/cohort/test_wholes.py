"""Families, sites and time: what must not be divided never is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.cohort.division import Splits as Settings
from medmm.cohort.split import assign, decide, divide, load_splits, nested_in, redrawn
from medmm.cohort.wholes import Member, by_group, by_site, by_subject, by_time, nested
from medmm.errors import ConfigError, DataError

FAST = settings(max_examples=60, deadline=None)


@st.composite
def members(draw: Any, *, wholes: int = 60) -> list[Member]:
    number = draw(st.integers(40, 90))
    rng = random.Random(draw(st.integers(0, 10_000)))
    return [
        Member(f"{n:03d}", (str(rng.randrange(2)),), f"w{rng.randrange(wholes)}", float(rng.randrange(50)))
        for n in range(number)
    ]


def places(found: dict[str, tuple[str, int]], people: list[Member]) -> None:
    """Everybody is placed, once, on one side."""
    assert set(found) == {member.subject for member in people}
    for side, fold in found.values():
        assert (side, fold >= 0) in (("train", True), ("held_out", False))


def shuffled(people: list[Member]) -> list[Member]:
    return random.Random(1).sample(people, len(people))


@FAST
@given(people=members(), held_out=st.sampled_from([0.0, 0.2]), folds=st.integers(2, 5))
def test_groups_are_never_divided(people: list[Member], held_out: float, folds: int) -> None:
    asked = Settings(groups="family", held_out=held_out, folds=folds)
    found = by_group(people, asked)
    places(found, people)
    assert found == by_group(shuffled(people), asked)
    for whole in {member.whole for member in people}:
        assert len({found[member.subject] for member in people if member.whole == whole}) == 1
    assert {fold for _, fold in found.values() if fold >= 0} == set(range(folds))


@FAST
@given(people=members(wholes=8), held_out=st.sampled_from([0.0, 0.25]))
def test_sites_are_held_out_whole(people: list[Member], held_out: float) -> None:
    asked = Settings(by="site", site="centre", held_out=held_out, folds=3)
    found = by_site(people, asked)
    places(found, people)
    assert found == by_site(shuffled(people), asked)
    for site in {member.whole for member in people}:
        assert len({found[member.subject] for member in people if member.whole == site}) == 1
    assert any(side == "held_out" for side, _ in found.values()) == bool(held_out)
    one = people[0].whole
    named = by_site(people, Settings(by="site", site="centre", held_out_sites=(one,), folds=3))
    assert {m.subject for m in people if m.whole == one} == {
        s for s, (side, _) in named.items() if side == "held_out"
    }


@FAST
@given(people=members(), held_out=st.floats(0.05, 0.6))
def test_the_held_out_are_strictly_later(people: list[Member], held_out: float) -> None:
    asked = Settings(by="time", held_out=held_out, folds=3)
    found = by_time(people, asked)
    places(found, people)
    assert found == by_time(shuffled(people), asked)
    day = {member.subject: member.day for member in people}
    earlier = [day[subject] for subject, (side, _) in found.items() if side == "train"]
    later = [day[subject] for subject, (side, _) in found.items() if side == "held_out"]
    assert max(earlier) < min(later)


@FAST
@given(people=members(wholes=40), folds=st.integers(2, 4), inner=st.integers(2, 4))
def test_inner_folds_lie_inside_the_outer_ones(people: list[Member], folds: int, inner: int) -> None:
    asked = Settings(groups="family", folds=folds, inner_folds=inner)
    found = by_group(people, asked)
    inside = nested(people, found, asked)
    assert inside == nested(shuffled(people), found, asked)
    for outer in range(folds):
        for member in people:
            assert (inside[member.subject][outer] == -1) == (found[member.subject][1] == outer)
        for whole in {member.whole for member in people}:
            assert len({inside[m.subject][outer] for m in people if m.whole == whole}) == 1


@FAST
@given(people=members(), held_out=st.sampled_from([0.0, 0.3]))
def test_subjects_are_spread_evenly(people: list[Member], held_out: float) -> None:
    asked = Settings(held_out=held_out, folds=4)
    found = by_subject(people, asked)
    places(found, people)
    sizes = [sum(fold == k for _, fold in found.values()) for k in range(4)]
    assert max(sizes) - min(sizes) <= 1


def test_impossible_divisions_say_what_to_do() -> None:
    two = [Member(f"{n}", (), f"w{n % 2}", 0.0) for n in range(10)]
    with pytest.raises(DataError, match="2 groups cannot fill 3 parts"):
        by_group(two, Settings(groups="family", folds=3))
    with pytest.raises(DataError, match="2 sites are left for 3 folds"):
        by_site(two, Settings(by="site", site="centre", folds=3))
    with pytest.raises(DataError, match=r"\['w9'\] are no sites"):
        by_site(two, Settings(by="site", site="centre", folds=2, held_out_sites=("w9",)))
    with pytest.raises(DataError, match="same prediction time"):
        by_time(two, Settings(by="time", held_out=0.2, folds=2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": "site"},
        {"site": "centre"},
        {"by": "time"},
        {"by": "time", "held_out": 0.2, "groups": "family"},
        {"held_out_sites": ["a"]},
    ],
)
def test_a_declaration_that_means_nothing_is_refused(small: Any, wrong: dict[str, Any]) -> None:
    small.spec["splits"] = wrong
    with pytest.raises(ConfigError, match="splits"):
        small.load()


def _families(small: Any) -> None:
    small.spec["records"]["fields"]["family"] = {"role": "key"}
    head = ("patient_id", "seen_at", "age", "sex", "site", "family")
    rows = [
        (f"{n:03d}", f"2024-03-{1 + n % 28:02d} 12:00", "50", "m", f"site {n % 6}", f"f{n // 3}")
        for n in range(60)
    ]
    small.write("records.csv", head, rows)
    small.write("labels.csv", ("patient_id", "ill"), [(row[0], str(n % 3 % 2)) for n, row in enumerate(rows)])


def test_a_cohort_is_divided_by_family_site_or_time(small: Any) -> None:
    _families(small)
    for by in (
        {"groups": "family", "held_out": 0.2, "folds": 3, "inner_folds": 2},
        {"by": "site", "site": "site", "held_out_sites": ["site 1"], "folds": 3},
        {"by": "time", "held_out": 0.25, "folds": 3},
    ):
        small.spec["splits"] = by
        cohort = small.link()
        placed = assign(cohort, divide(cohort))
        assert {patient.split for patient in placed.patients} == {"train", "held_out"}
    small.spec["splits"] = {"groups": "famly"}
    with pytest.raises(ConfigError, match="did you mean 'family'"):
        small.load()


def test_a_file_of_splits_is_used_bound_and_checked(small: Any, tmp_path: Path) -> None:
    _families(small)
    small.spec["splits"] = {"groups": "family", "folds": 3, "inner_folds": 2, "seed": 5}
    cohort = small.link()
    divide(cohort).save(tmp_path / "splits.json")
    assert load_splits(tmp_path / "splits.json") == divide(cohort)
    small.spec["splits"] = {"file": "splits.json"}
    same, splits = decide(small.link(), folder=tmp_path)
    assert splits == divide(cohort)
    small.spec["splits"] = {}
    drawn = small.link()
    assert same.digest not in (drawn.digest, cohort.digest)
    given, again = decide(drawn, folder=tmp_path, file=tmp_path / "splits.json")
    assert (given.digest, again) == (same.digest, splits)
    with pytest.raises(DataError, match="divided by a file"):
        divide(given)
    body = json.loads((tmp_path / "splits.json").read_text())
    body["subjects"]["000"] = ["train", (body["subjects"]["001"][1] + 1) % 3]
    (tmp_path / "splits.json").write_text(json.dumps(body))
    with pytest.raises(DataError, match="changed after"):
        load_splits(tmp_path / "splits.json")


def test_a_file_that_divides_a_family_is_refused(small: Any, tmp_path: Path) -> None:
    _families(small)
    divide(small.link()).save(tmp_path / "splits.json")
    small.spec["splits"] = {"groups": "family", "file": "splits.json"}
    cohort, splits = decide(small.link(), folder=tmp_path)
    with pytest.raises(DataError, match="divide a group"):
        assign(cohort, splits)


def test_a_repeat_is_nested_as_the_first_division_is(small: Any) -> None:
    _families(small)
    small.spec["splits"] = {"groups": "family", "folds": 3, "inner_folds": 2}
    cohort = small.link()
    splits = divide(cohort)
    (again,) = redrawn(cohort, splits, 1)
    inner = nested_in(cohort, splits, again)
    assert set(inner) == set(again) == {s for s, (split, _) in splits.of.items() if split == "train"}
    for subject, places in inner.items():
        assert [place == -1 for place in places] == [fold == again[subject] for fold in range(3)]
        assert set(places) - {-1} <= {0, 1}
    families = {cohort.groups[subject]: places for subject, places in inner.items()}
    assert all(families[cohort.groups[subject]] == places for subject, places in inner.items())
