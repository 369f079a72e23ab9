"""What a run says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from medmm.telling import Trained, summary


@pytest.mark.parametrize(
    ("worst", "said"),
    [
        (None, ""),
        ("nothing", ""),
        ("look", "should look at"),
        ("shortcut", "examined"),
        ("leak", "a leak"),
    ],
)
def test_the_red_team_s_worst_finding_is_said_before_the_report(worst: str | None, said: str) -> None:
    lines = summary(Trained(Path("run"), Path("run/bundle"), "0" * 64, {}, worst=worst))
    told = [line for line in lines if line.startswith("red team")]
    assert len(told) == bool(said)
    assert all(said in line and "run/red-team*.html" in line for line in told)
    assert lines[len(told)].startswith("report ")
