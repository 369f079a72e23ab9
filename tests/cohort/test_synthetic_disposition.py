"""The outcome of three classes: drawn as often as planted, from the image and the note."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medmm.cohort.synthetic.disposition import (
    CLASSES,
    SEVERITY,
    complaint,
    disposition,
    dispositions,
    probabilities,
)
from medmm.cohort.synthetic.subjects import subjects
from medmm.cohort.synthetic.tables import admission_note


def test_the_note_tells_the_complaint_that_counts() -> None:
    told = [subject for subject in subjects(200, 1) if admission_note(subject)]
    assert 80 < len(told) < 140
    assert all(f"with {complaint(subject)} for" in admission_note(subject) for subject in told)


def test_the_classes_are_drawn_as_planted_and_none_is_rare() -> None:
    people = subjects(1500, 2)
    expected = np.array([list(probabilities(subject).values()) for subject in people])
    drawn = Counter(disposition(subject) for subject in people)
    assert expected.sum(axis=1) == pytest.approx(1)
    for place, name in enumerate(CLASSES):
        assert drawn[name] / 1500 == pytest.approx(expected[:, place].mean(), abs=0.04)
        assert drawn[name] / 1500 > 0.2


def test_image_and_note_each_matter() -> None:
    home = {
        (bool(subject.radius_mm["radiograph"]), SEVERITY[complaint(subject)] > 1): []
        for subject in subjects(400, 2)
    }
    for subject in subjects(400, 2):
        home[bool(subject.radius_mm["radiograph"]), SEVERITY[complaint(subject)] > 1].append(
            probabilities(subject)["home"]
        )
    mean = {key: float(np.mean(values)) for key, values in home.items()}
    assert mean[False, False] > mean[True, False] + 0.1 > mean[True, True] + 0.2
    assert mean[False, False] > mean[False, True] + 0.1


def test_the_table_has_everybody_once() -> None:
    people = subjects(40, 0)
    header, *rows = dispositions(people).decode().splitlines()
    assert header == "patient_id,disposition,admitted"
    assert [row.split(",")[0] for row in rows] == [subject.subject_id for subject in people]
    assert all((row.split(",")[1] == "home") == row.endswith(",0") for row in rows)
