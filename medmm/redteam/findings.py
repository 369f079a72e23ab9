"""What was found, graded, ranked, and said in a sentence with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medmm.evaluation.resampling import Estimate
from medmm.redteam.columns import Family

Grade = Literal["leak", "shortcut", "look"]
GRADES: tuple[Grade, ...] = ("leak", "shortcut", "look")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should look at.

    Attributes:
        grade: "leak" (a figure would be false), "shortcut" (a model may learn what is not the disease), or
            "look" (a person must say).
        rule: the rule of docs/red-team.md.
        what: the column, the group of columns, or what was compared.
        means: one sentence.
        advice: what to do.
        auroc: of it alone, with its own 95 % interval; None where the finding is a count.
        bound: the lower bound that holds for all that was looked at together.
        patients: of how many this speaks.
        pairs: pseudonyms of two patients each; never tracked.
    """

    grade: Grade
    rule: str
    what: str
    means: str
    advice: str
    auroc: Estimate | None = None
    bound: float | None = None
    patients: int = 0
    pairs: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        """Return the finding as one line of a terminal."""
        area = f" AUROC {self.auroc}" if self.auroc else ""
        return f"{self.grade.upper():<8} {self.rule:<10} {self.what}{area}: {self.means} {self.advice}"


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings, worst first: by grade, then by how far each is from chance."""
    return sorted(findings, key=lambda f: (GRADES.index(f.grade), -(f.bound or 1.0), f.rule, f.what))


GROUP_NAMES: dict[Family, str] = {
    "missing": "everything that is missing",
    "header": "all headers",
    "scanner": "scanner and its settings",
    "size": "size of the image",
    "count": "number of series and files",
    "site": "site",
    "date": "date and hour of the acquisition",
    "order": "the ids",
    "file": "how the file is stored",
    "pixels": "mean and spread of the pixels",
}
"""Families that are also tried together, and what they are called."""

MEANS: dict[Family, str] = {
    "header": "a network can read it off the picture, and it says how the image was made, not what it shows.",
    "scanner": "the ill were imaged on other machines; a network learns the machine.",
    "size": "unless the size is anatomy (a crop around an organ), it is the way the image was made.",
    "count": "how often somebody is examined follows from the disease, partly after the prediction time.",
    "site": "sites differ in who comes; a model that knows the site fails at another.",
    "date": "cases and controls come from other times; a model may learn the calendar.",
    "order": "the ids were given by outcome; look for other traces of how cases were collected.",
    "file": "the files of the ill were written in another way, perhaps the pixels too.",
    "pixels": "brightness alone tells who is ill: disease, or exposure, windowing and borders.",
    "missing": "whether it was measured tells who is ill: whoever ordered it already suspected it.",
}
ADVICE: dict[Family, str] = {
    "header": "Report performance within its levels, balance the cohort, and compare with this figure.",
    "scanner": "Report performance per machine, split by machine, or match on it.",
    "size": "Resample to one grid, crop alike, and compare the image model with this figure.",
    "count": "Never use counts as input; take one series by a rule that looks only back.",
    "site": "Split by site (`splits: {by: site}`), report per site, and keep the site out of the inputs.",
    "date": "Split by time, and match or restrict the periods.",
    "order": "Keep ids out of the inputs and of file names that a loader sorts by.",
    "file": "Convert all images alike before training.",
    "pixels": "Normalise intensities per image, and compare the image model with this figure.",
    "missing": "Ask who orders it and when; try the model without the field and its missing indicator.",
}
