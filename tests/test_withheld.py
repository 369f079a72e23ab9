"""What may leave for a tracking store, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from medmm.withheld import WITHHELD, plain


@pytest.mark.parametrize(
    "value",
    [
        "/home/somebody/data",
        "data\\patients",
        "~/data",
        Path("relative"),
        "one@example.org",
        "The patient came with a cough",
        "two\nlines",
        "x" * 200,
        ["/data/a.csv"],
    ],
)
def test_a_doubtful_parameter_is_withheld(value: object) -> None:
    assert plain(value) == WITHHELD


@pytest.mark.parametrize(
    "value", [0, 1.5, None, True, "late_stack", (28, 48, 48), ["psa", "age"], "hinge (L2)", 1e-4]
)
def test_a_plain_parameter_is_kept(value: object) -> None:
    assert plain(value) == str(value)
