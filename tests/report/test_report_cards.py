"""What a person wrote in a recipe stays words in the card that travels with the bundle."""

from __future__ import annotations

from typing import Any

import pytest

from medmm.report.cards import model_card

METRICS: dict[str, Any] = {"verdict": None, "gate": {}, "out_of_fold": {}}


def card(question: str) -> str:
    description = {
        "name": "small",
        "question": question,
        "intended_use": question,
        "trained_on": 60,
        "cohort": "synthetic",
        "positives": 20,
        "prevalence": 1 / 3,
        "modalities": ("ct", "records"),
        "fusion": {"kind": "concat"},
        "members": 2,
    }
    return model_card(description, METRICS)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Will it be so?", "Will it be so?"),
        ("# Approved by all", "\\# Approved by all"),
        ("1. first", "1\\. first"),
        ("- item", "\\- item"),
        ("a\n\n## Limits\n\nnone", "a ## Limits none"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[here](http://x) ![p](y)", "\\[here\\](http://x) !\\[p\\](y)"),
        ("a | b `c` *d* _e_ ~~f~~ \\g", "a \\| b \\`c\\` \\*d\\* \\_e\\_ \\~\\~f\\~\\~ \\\\g"),
        ("dark\u202egnirts\x1b[31m", "dark\ufffdgnirts\ufffd\\[31m"),
    ],
)
def test_hostile_words_stay_words(written: str, shown: str) -> None:
    lines = card(written).splitlines()
    assert lines[2] == shown
    assert lines[4].startswith(f"**Intended use.** {shown} Research use only")
    assert [line for line in lines if line.startswith("#")][:2] == [
        "# small",
        "## Out-of-fold figures (95 % intervals)",
    ]
