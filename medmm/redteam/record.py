"""What a training run keeps about its cohort: Table 1, who lacks what, and the red team's findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medmm.cohort.link import Cohort
from medmm.cohort.split import Splits
from medmm.cohort.table1 import table1
from medmm.redteam.attack import attack, open_for_attack
from medmm.redteam.findings import GRADES
from medmm.redteam.page import to_html, to_json
from medmm.report.page import write_page
from medmm.report.table1 import missing_map, render_table1, table1_csv
from medmm.tracking import Run


def record(
    tracked: Run, cohort: Cohort, folder: Path, root: Path, outcomes: Sequence[str], splits: Splits
) -> str:
    """Write both into the folder of a run and keep them with it; what is tracked has no pseudonyms.

    Pixels are not read again: copies among images are for `medmm cohort check --red-team`.

    Args:
        tracked: the run.
        cohort: whose patients have their split.
        folder: of the run.
        root: folder of the data.
        outcomes: those that are trained for.
        splits: of the run.

    Returns:
        The worst grade that was found: "leak", "shortcut", "look" or "nothing".
    """
    table = table1(cohort)
    for name, text in (("table1.html", render_table1(table)), ("table1.csv", table1_csv(table))):
        write_page(text, folder / name)
        tracked.text(name, text)
    picture = missing_map(table)
    if picture:
        tracked.figure("missing", picture)
    linked = open_for_attack(cohort.spec, root)
    grades = set()
    for outcome in outcomes:
        stem = "red-team" if len(outcomes) == 1 else f"red-team-{outcome}"
        for found in attack(linked, root, outcome=outcome, splits=splits, images=False):
            grades |= {finding.grade for finding in found.findings}
            for name, written in ((f"{stem}.html", to_html), (f"{stem}.json", to_json)):
                write_page(written(found), folder / name)
                tracked.text(name, written(found, named=False))
    return next((grade for grade in GRADES if grade in grades), "nothing")
