"""What is planted is found, what is not is not, and nothing hostile stops the search."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from medmm.cohort.check import check
from medmm.cohort.link import link
from medmm.evaluation.screening import family_bound, pure_level, score_interval, within_folds
from medmm.redteam.attack import attack, open_for_attack
from medmm.redteam.columns import Column, gaps
from medmm.redteam.copies import equal_images, people, similar_images, similar_persons
from medmm.redteam.images import SIDE, Thumbnail
from medmm.redteam.page import lines, to_html, to_json
from medmm.redteam.strength import Question, strength


def question(patients: int, seed: int = 0) -> Question:
    rng = np.random.default_rng(seed)
    labels = rng.random(patients) < 0.4
    return Question(labels, [f"{n:04d}" for n in range(patients)], rng.integers(0, 5, patients))


def test_newcombe_s_interval_is_honest_at_both_ends() -> None:
    perfect = score_interval(1.0, 10, 10)
    assert perfect.upper == 1.0
    assert 0.7 < perfect.lower < 0.9
    middle = score_interval(0.8, 50, 50)
    assert (round(middle.lower, 2), round(middle.upper, 2)) == (0.7, 0.87)
    assert family_bound(0.8, 50, 50, looked_at=40) < middle.lower
    assert score_interval(0.8, 50, 50, folds=5).lower < middle.lower


def test_a_pure_level_by_luck() -> None:
    assert pure_level(1, 10, 4, all_events=True) == pytest.approx(0.4)
    assert pure_level(2, 10, 4, all_events=False) == pytest.approx(6 / 10 * 5 / 9)
    assert pure_level(5, 10, 4, all_events=True) == 0.0


def test_pairs_are_compared_inside_folds_only() -> None:
    labels, folds = np.array([1, 0, 1, 0], bool), np.array([0, 0, 1, 1])
    assert within_folds(labels, np.array([2.0, 1.0, 10.0, 9.0]), folds) == 1.0
    assert within_folds(labels, np.zeros(4), folds) == 0.5


def test_of_noise_nearly_nothing_stays_above_chance() -> None:
    above = 0
    for seed in range(4):
        asked, rng = question(150, seed), np.random.default_rng(seed + 99)
        tried = [Column(f"c{n}", "field", list(rng.normal(size=150))) for n in range(25)]
        found = [strength(asked, [column]) for column in tried]
        above += sum(strong is not None and strong.at_least(len(tried)) > 0.5 for strong in found)
    assert above <= 1


@pytest.mark.parametrize("kind", ["number", "word", "gap"])
def test_a_signal_of_any_form_is_measured(kind: str) -> None:
    asked, rng = question(200), np.random.default_rng(3)
    right = asked.labels ^ (rng.random(200) < 0.1)
    cells = {
        "number": [float(5 * r + n) for r, n in zip(right, rng.normal(size=200), strict=True)],
        "word": ["Siemens" if r else "GE" for r in right],
        "gap": [None if r else "1" for r in right],
    }[kind]
    column = Column("c", "field", cells)
    strong = strength(asked, [gaps(column) if kind == "gap" else column])
    assert strong is not None
    assert strong.auroc.value > 0.85
    assert strong.at_least(50) > 0.7


def test_a_thousand_levels_tell_nothing_by_heart() -> None:
    asked = question(300)
    found = strength(asked, [Column("id", "field", [f"word {n}" for n in range(300)])])
    assert found is not None
    assert found.at_least(1) < 0.5


def picture(seed: int) -> Thumbnail:
    values = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
    values -= values.mean()
    return Thumbnail(str(seed), (SIDE, SIDE), values / np.linalg.norm(values), {})


def test_copies_of_images_are_found_mirrored_too() -> None:
    images = [picture(seed) for seed in range(12)]
    mirrored = Thumbnail("m", (SIDE, SIDE), np.ascontiguousarray(images[3].picture[:, ::-1]), {})
    noisy = images[5].picture + picture(77).picture * 0.02
    noisy = Thumbnail("n", (SIDE, SIDE), (noisy / np.linalg.norm(noisy)).astype(np.float32), {})
    every = [*images, None, mirrored, noisy, images[0]]
    assert [(pair.first, pair.second) for pair in equal_images(every)] == [(0, 15)]
    assert [(pair.first, pair.second) for pair in similar_images(every)] == [(3, 13), (5, 14)]
    even = Thumbnail("e", (SIDE, SIDE), np.zeros((SIDE, SIDE), np.float32), {})
    assert similar_images([even, even, even]) == []


def test_copies_of_persons_are_found_despite_an_error_and_strangers_are_not() -> None:
    rng = np.random.default_rng(0)
    rows = [[round(v, 1) for v in rng.normal(50, 15, 8)] + [str(rng.integers(2))] for _ in range(200)]
    rows[150] = [*rows[20][:3], 1.0, *rows[20][4:]]
    columns = [Column(str(n), "field", [row[n] for row in rows]) for n in range(9)]
    found = similar_persons(columns)
    assert [(pair.first, pair.second) for pair in found] == [(20, 150)]
    assert people(found, 200)[150] == 20


def planted(small: Any, patients: int = 120) -> None:
    """A cohort with a leak, a copy across folds and words that would break a page."""
    rng = np.random.default_rng(0)
    rows, labels = [], []
    for n in range(patients):
        ill = int(rng.random() < 0.4)
        told = ill ^ int(rng.random() < 0.05)
        age, site = f"{rng.normal(60, 12):.1f}", ("<script>alert(1)</script>", "south & co")[n % 2]
        rows.append((f"{n:03d}", "2024-03-01 12:00", age, site, "north", f"{told}"))
        labels.append((f"{n:03d}", f"{ill}"))
    head = ("patient_id", "seen_at", "age", "sex", "site", "discharge_code")
    small.write("records.csv", head, rows)
    small.write("labels.csv", ("patient_id", "ill"), labels)
    small.spec["records"]["fields"]["discharge_code"] = {"role": "input", "kind": "category"}


def test_a_planted_leak_is_named_and_the_page_is_safe(small: Any) -> None:
    planted(small)
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    leaks = [item for item in found.findings if item.grade == "leak"]
    assert [item.what for item in leaks] == ["records.discharge_code"]
    assert leaks[0].auroc is not None
    assert leaks[0].bound is not None
    assert 0.8 < leaks[0].bound < leaks[0].auroc.lower < leaks[0].auroc.value
    page = to_html(found)
    assert "<script>" not in page
    assert "discharge_code" in page
    told = json.loads(to_json(found))
    assert told["findings"][0]["what"] == "records.discharge_code"
    assert any("LEAK" in line for line in lines(found))
    assert not any(f"{n:03d}" in page for n in (101, 117))  # no id


@pytest.mark.parametrize(
    ("outcome", "asked"),
    [
        ({"kind": "regression", "unit": "d"}, "above 59.5 d"),
        ({"kind": "ordinal", "classes": [0, 1, 2]}, "1 or above"),
        ({"kind": "multiclass", "classes": [0, 1, 2]}, "0"),
        ({"kind": "survival", "event": "died", "positive": 1}, "an event within 60.5 days"),
    ],
)
def test_a_leak_of_an_outcome_of_any_kind_is_found(small: Any, outcome: dict[str, Any], asked: str) -> None:
    rng = np.random.default_rng(2)
    days = rng.permutation(120)
    head = ("patient_id", "seen_at", "age", "sex", "site", "weeks")
    ages = rng.normal(60, 9, 120)
    rows = [
        (f"{n:03d}", "2024-03-01", f"{ages[n]:.1f}", "mf"[n % 2], "x", f"{(days[n] + 1) / 7:.2f}")
        for n in range(120)
    ]
    small.write("records.csv", head, rows)
    small.spec["records"]["fields"]["weeks"] = {"role": "input", "kind": "number"}
    value = days // 40 if "classes" in outcome else days + (outcome["kind"] == "survival")
    labels = [(f"{n:03d}", str(value[n]), str(int(days[n] % 10 > 0))) for n in range(120)]
    small.write("labels.csv", ("patient_id", "y", "died"), labels)
    if outcome["kind"] != "survival":
        small.spec["never_columns"] = {"labels.csv": {"died": "not asked"}}
    small.spec["outcomes"] = {"y": {"table": "labels.csv"} | outcome}
    linked = open_for_attack(small.load(), small.root)
    (found,) = attack(linked, small.root)
    assert ("leak", "records.weeks") in [(item.grade, item.what) for item in found.findings]
    assert f"y was asked as: {asked}" in found.notes
    assert outcome["kind"] == "multiclass" or any("weeks" in line for line in check(linked).warnings)


def test_a_copy_across_folds_is_a_leak(small: Any) -> None:
    planted(small)
    small.spec["records"]["fields"]["discharge_code"] = {"role": "never", "why": "known later"}
    for name in ("weight", "height", "creatinine"):
        small.spec["records"]["fields"][name] = {"role": "input", "kind": "number"}
    lines_ = (small.root / "records.csv").read_text().splitlines()
    rng = np.random.default_rng(5)
    rows = [[*line.split(","), *(f"{v:.2f}" for v in rng.normal(80, 20, 3))] for line in lines_[1:]]
    for n in range(10):
        rows[60 + n][2:] = rows[n][2:]
    head = (*lines_[0].split(","), "weight", "height", "creatinine")
    small.write("records.csv", head, rows)
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    copies = [item for item in found.findings if item.rule == "copies" and item.grade == "leak"]
    assert copies
    assert copies[0].what == "similar person, in different splits or folds"
    assert copies[0].pairs
    assert copies[0].pairs[0][0] not in to_html(found, named=False)


def test_what_cannot_be_attacked_is_said(small: Any) -> None:
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    assert not found.findings
    assert "nothing is tried" in found.notes[-1]
    assert "fewer" in to_html(found)
    assert "nothing could be looked at" in lines(found)[0]
    assert "Nothing found" not in to_html(found)
    rows = [(f"{n}", "2024-03-01 12:00", "", "m", "x") for n in range(30)]
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    small.write("labels.csv", ("patient_id", "ill"), [(f"{n}", "1") for n in range(30)])
    cohort = link(small.load(), small.root, key=b"k" * 32)
    (found,) = attack(cohort, small.root)  # a constant outcome
    assert "30 of 30" in found.notes[-1]


def test_dates_that_are_declared_as_words_are_read(small: Any) -> None:
    planted(small)
    small.spec["records"]["fields"]["discharge_code"] = {"role": "input", "kind": "category"}
    lines_ = (small.root / "records.csv").read_text().splitlines()
    rows = [[*line.split(",")[:5], f"2024-03-{2 + n % 9:02d}"] for n, line in enumerate(lines_[1:])]
    small.write("records.csv", lines_[0].split(","), rows)
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    (told,) = [item for item in found.findings if item.rule == "time"]
    assert (told.grade, told.what) == ("leak", "records.discharge_code")
    assert "120 of 120" in told.means


def test_a_clock_that_no_rule_of_time_reads_is_named(small: Any) -> None:
    planted(small)
    known = {"undated": {"assume_known": "somebody said so"}}
    small.spec["notes"] = {"table": "notes.csv", "columns": {"text": "text"}, "input": {}} | known
    small.spec["never_columns"] = {"notes.csv": {"written": "not mapped"}}
    small.write("notes.csv", ("patient_id", "text", "written"), [("003", "died", "2025-01-01")] * 2)
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    (told,) = [item for item in found.findings if item.rule == "time"]
    assert (told.grade, told.what) == ("leak", "notes.csv: written")
    assert "2 of 2 rows" in told.means


def test_withheld_columns_that_could_not_be_tried_are_said(small: Any) -> None:
    planted(small)
    small.spec["records"]["fields"]["discharge_code"] = {"role": "never", "why": "known later"}
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    assert not [note for note in found.notes if "`never`" in note]
    assert "records.discharge_code" in {item.what for item in found.findings}
    small.spec["records"]["fields"]["gone"] = {"role": "never", "why": "in an older export"}
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    assert [note for note in found.notes if "`never`" in note]
    assert "records.discharge_code" not in {item.what for item in found.findings}


def test_many_patients_with_common_values_are_compared_within_bounds() -> None:
    rng = np.random.default_rng(0)
    columns = [Column(str(n), "field", rng.integers(0, 30, 4000).astype(float).tolist()) for n in range(6)]
    assert similar_persons(columns) == []


def test_a_site_among_the_inputs_and_cases_of_other_years_are_shortcuts(small: Any) -> None:
    rng = np.random.default_rng(1)
    ill = rng.random(120) < 0.4
    rows = [
        (
            f"{n:03d}",
            f"20{20 + 2 * int(ill[n])}-03-{1 + n % 28:02d} 12:00",
            "50",
            "m",
            "n" if ill[n] ^ (n % 7 == 0) else "s",
        )
        for n in rng.permutation(120)
    ]
    small.spec["records"]["fields"]["site"] = {"role": "input", "kind": "category"}
    small.write("records.csv", ("patient_id", "seen_at", "age", "sex", "site"), rows)
    small.write("labels.csv", ("patient_id", "ill"), [(f"{n:03d}", str(int(ill[n]))) for n in range(120)])
    (found,) = attack(open_for_attack(small.load(), small.root), small.root)
    shortcuts = " ".join(item.what for item in found.findings if item.grade == "shortcut")
    assert "input records.site" in shortcuts
    assert "date of the prediction time" in shortcuts
    assert "weekday" not in shortcuts
