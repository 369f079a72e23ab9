"""Reporting checklists, prefilled with what a page shows; whatever it cannot know is left to the author.

TRIPOD+AI (Collins et al., BMJ 2024;385:e078378) for prediction models and CLAIM 2024 (Tejani et al.,
Radiology: Artificial Intelligence 2024;6:e240300) for imaging. The items are named in short here: the
checklists themselves say what each of them asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TO_COMPLETE = "author to complete"


@dataclass(frozen=True, slots=True)
class Line:
    """One item of a checklist, filled or not.

    Attributes:
        number: its number in the checklist ("12c").
        asked: what it asks, in short.
        answer: what the page shows of it; empty where the author has to write.
    """

    number: str
    asked: str
    answer: str


@dataclass(frozen=True, slots=True)
class Checklist:
    """A checklist with its lines; ``filled`` counts those that have an answer."""

    name: str
    lines: tuple[Line, ...]

    @property
    def filled(self) -> int:
        """How many lines have an answer."""
        return sum(bool(line.answer) for line in self.lines)


def checklists(shown: Mapping[str, str], evidence: Mapping[str, str]) -> tuple[Checklist, ...]:
    """Return both checklists, filled in.

    Args:
        shown: what a page shows, by the keys that the items below name.
        evidence: answers by checklist and item ("TRIPOD+AI 5a"); they come before what the page shows.
    """
    return tuple(
        Checklist(
            name,
            tuple(
                Line(number, asked, evidence.get(f"{name} {number}") or _joined(shown, keys))
                for number, asked, *keys in items
            ),
        )
        for name, items in (("TRIPOD+AI", TRIPOD_AI), ("CLAIM 2024", CLAIM_2024))
    )


def _joined(shown: Mapping[str, str], keys: list[str]) -> str:
    return "; ".join(shown[key] for key in keys if key in shown)


TRIPOD_AI: tuple[tuple[str, ...], ...] = (
    ("1", "Title: a model developed or evaluated, for whom, for which outcome"),
    ("2", "Abstract, as TRIPOD+AI for abstracts asks"),
    ("3a", "Healthcare context, rationale, existing models"),
    ("3b", "Target population, intended purpose and users", "intended use"),
    ("3c", "Known health inequalities"),
    ("4", "Objectives: development, evaluation or both", "question"),
    ("5a", "Sources of data, and how representative they are"),
    ("5b", "Dates of the data"),
    ("6a", "Setting: level of care, number and place of centres"),
    ("6b", "Eligibility criteria"),
    ("6c", "Treatments received"),
    ("7", "Preparation of the data and checks of their quality"),
    ("8a", "Outcome: definition, time horizon, how and when assessed"),
    ("8b", "Who assessed the outcome, where it takes judgement"),
    ("8c", "Blinding of the assessment"),
    ("9a", "Choice of the initial predictors"),
    ("9b", "Definition of all predictors, how and when measured"),
    ("9c", "Who assessed predictors, where it takes judgement"),
    ("10", "How the study size was arrived at"),
    ("11", "How missing data were handled"),
    ("12a", "How the data were used and divided", "question", "seeds"),
    ("12b", "How predictors were handled in the analysis"),
    ("12c", "Type of model, building steps, tuning, internal validation"),
    ("12d", "Heterogeneity across clusters: how it was handled"),
    ("12e", "Measures and plots of performance", "measures"),
    ("12f", "Updating of the model (recalibration)"),
    ("12g", "How predictions were calculated in the evaluation", "software"),
    ("13", "Handling of class imbalance, and recalibration after it"),
    ("14", "What was done for fairness, and why"),
    ("15", "Output of the model; thresholds and how they were chosen", "thresholds"),
    ("16", "Differences between the data of development and evaluation"),
    ("17", "Ethical approval and consent"),
    ("18a", "Funding"),
    ("18b", "Conflicts of interest"),
    ("18c", "Protocol: where it can be read"),
    ("18d", "Registration"),
    ("18e", "Availability of the data"),
    ("18f", "Availability of the code", "software"),
    ("19", "Involvement of patients and the public"),
    ("20a", "Flow of participants, with and without the outcome", "flow"),
    ("20b", "Characteristics of participants; missing values", "characteristics", "missing"),
    ("20c", "Predictors compared between development and evaluation"),
    ("21", "Participants and events in each analysis", "patients"),
    ("22", "The full model, so that others can predict and evaluate", "object"),
    ("23a", "Performance with intervals, in key subgroups too", "discrimination", "calibration", "subgroups"),
    ("23b", "Heterogeneity of performance across clusters", "patterns"),
    ("24", "Results of updating the model"),
    ("25", "Interpretation, with fairness, in the light of other studies"),
    ("26", "Limitations"),
    ("27a", "In use: how poor or missing input is assessed and handled", "patterns"),
    ("27b", "In use: what users have to do with the input"),
    ("27c", "Next steps of research"),
)
"""Number, what is asked, and the keys of what may answer it."""

CLAIM_2024: tuple[tuple[str, ...], ...] = (
    ("1", "Title or abstract names the AI method"),
    ("2", "Structured abstract"),
    ("3", "Background, intended use and clinical role", "intended use"),
    ("4", "Aims and hypotheses", "question"),
    ("5", "Prospective or retrospective"),
    ("6", "Goal of the study"),
    ("7", "Sources of data"),
    ("8", "Inclusion and exclusion criteria"),
    ("9", "Preprocessing of the data"),
    ("10", "Selection of subsets of the data"),
    ("11", "De-identification"),
    ("12", "How missing data were handled"),
    ("13", "Protocol of image acquisition"),
    ("14", "Reference standard: definition"),
    ("15", "Reference standard: why this one"),
    ("16", "Reference standard: who annotated, with which qualification"),
    ("17", "Annotation of the test set"),
    ("18", "Variability between and within readers"),
    ("19", "How data were assigned to partitions", "question"),
    ("20", "Level at which partitions are disjoint"),
    ("21", "Intended sample size"),
    ("22", "The model in detail", "object"),
    ("23", "Software and its versions", "software"),
    ("24", "Initialisation of the parameters"),
    ("25", "Training in detail", "seeds"),
    ("26", "How the final model was selected"),
    ("27", "Ensembles"),
    ("28", "Metrics of performance", "measures"),
    ("29", "Measures of significance and uncertainty", "intervals"),
    ("30", "Robustness and sensitivity", "patterns"),
    ("31", "Explainability", "attributions"),
    ("32", "Evaluation on internal data", "internal"),
    ("33", "Testing on external data"),
    ("34", "Registration of the trial"),
    ("35", "Patients and examinations included and excluded", "flow"),
    ("36", "Characteristics of the cases in each partition", "characteristics"),
    ("37", "Performance on each partition", "discrimination", "calibration", "comparison"),
    ("38", "Estimates of diagnostic accuracy with their precision", "thresholds"),
    ("39", "Failure analysis"),
    ("40", "Limitations"),
    ("41", "Implications for practice"),
    ("42", "Full protocol and technical details"),
    ("43", "Availability of software, model and data", "object", "data"),
    ("44", "Funding and the funders' role"),
)
"""Number, what is asked, and the keys of what may answer it."""
