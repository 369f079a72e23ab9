"""What a cohort looks like before anybody trains on it: the accounts, who has what, what is odd."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from medmm.catalogue import agreement
from medmm.cohort.archive import Candidate
from medmm.cohort.disclosure import told
from medmm.cohort.flow import Account, Flow
from medmm.cohort.link import Cohort
from medmm.cohort.outcomes import counted, halved
from medmm.columns import FieldSpec, ResultSpec, Status, Value
from medmm.sample import Absence, Source
from medmm.sources.tables import SUFFIXES

SPARSE = 0.5
"""A field that fewer patients than this share have is named."""
LEAK_AUROC = 0.95
"""A single field that ranks the outcome this well is more often a consequence than a cause."""
MIN_PATIENTS = 20
"""With fewer patients, nothing is said about single fields."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many patients have a field, and why the others have not.

    Attributes:
        name: "block.field", or the name of an image block.
        known: patients with a value.
        absent: per status or reason, patients without.
    """

    name: str
    known: int
    absent: Mapping[str, int]

    def line(self) -> str:
        """Return "records.age 150 of 151 (1 missing)"."""
        total = self.known + sum(self.absent.values())
        why = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in self.absent.items())
        return f"{self.name} {self.known} of {total}" + (f" ({why})" if why else "")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `medmm cohort check` says.

    Attributes:
        patterns: per combination of blocks, the patients who have exactly those.
        coverage: per field and image block, who has it.
        outcomes: per binary outcome, (positive, labelled).
        choices: per image block, and per block's mask, how many series were chosen, and not, by reason.
        inherited: per field, which of its ranges are the catalogue's, and from which source.
        warnings: what a person should look at, without patient data.
    """

    name: str
    flow: Flow
    patterns: Mapping[str, int]
    coverage: Sequence[Coverage]
    outcomes: Mapping[str, tuple[int, int]]
    choices: Mapping[str, Mapping[str, int]]
    inherited: Mapping[str, str]
    warnings: Sequence[str]
    counted: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the report as plain lines."""
        lines = [self._account(account) for account in self.flow.accounts]
        if self.patterns:
            lines.append(" · ".join(f"{pattern} {count}" for pattern, count in self.patterns.items()))
        for name, (positive, labelled) in self.outcomes.items():
            lines.append(f"{name}: {positive} of {labelled} positive")
        lines += [f"{name}: {words}" for name, words in self.counted.items()]
        for block, fates in self.choices.items():
            parts = " + ".join(f"{count} {fate}" for fate, count in fates.items())
            lines.append(f"{block}: {sum(fates.values())} candidates = {parts}")
        lines += [coverage.line() for coverage in self.coverage if coverage.absent]
        lines += [f"{name}: {words}" for name, words in self.inherited.items()]
        unread = [f"cannot be read: {name}: {_shown_cells(c)}" for name, c in self.flow.unparsable.items()]
        lines += unread
        if any("like '" in line for line in unread):
            lines.append("(a rare word may name somebody, so its shape is shown: A or a a letter, 9 a digit)")
        lines += [f"look at: {finding.line()}" for finding in self.flow.findings]
        return lines + [f"warning: {warning}" for warning in self.warnings]

    def _account(self, account: Account) -> str:
        tables = self.flow.undated.get("biomarkers", 0)
        undated = {"results": tables, "files": sum(self.flow.undated.values()) - tables}.get(account.name, 0)
        kind = "values" if account.name == "results" else "series"
        return account.line() + (f"; {undated} {kind} UNDATED (assumed known, by you)" if undated else "")


def _shown_cells(cells: Mapping[str, int]) -> str:
    return ", ".join(f"{told(text, count)} x{count}" for text, count in list(cells.items())[:10])


def check(cohort: Cohort, *, root: Path | None = None) -> CheckReport:
    """Look a linked cohort over.

    Args:
        cohort: a whole cohort, with outcomes.
        root: folder of its data, to name tables in it that the specification does not mention.
    """
    outcomes, spread = {}, {}
    for name, spec in cohort.spec.outcomes.items():
        found = [patient.targets[name] for patient in cohort.patients if name in patient.targets]
        if spec.kind == "binary":
            outcomes[name] = (int(sum(found)), len(found))
        else:
            spread[name] = counted(spec, found)
    coverage = list(_coverage(cohort))
    warnings = [
        *_source_warnings(cohort, root),
        *_outcome_warnings(outcomes, len(cohort.patients)),
        *_field_warnings(cohort, coverage),
    ]
    return CheckReport(
        cohort.spec.name,
        cohort.flow,
        patterns(cohort),
        coverage,
        outcomes,
        _choices(cohort),
        _inherited(cohort),
        warnings,
        spread,
    )


def series_columns(cohort: Cohort) -> dict[str, list[Any]]:
    """Return every candidate series and mask as columns: pseudonyms, whether chosen, else the reason."""
    rows = sorted(map(asdict, cohort.series), key=lambda row: (row["block"], row["subject"], row["series"]))
    names = [field.name for field in fields(Candidate)]
    return {name: [row[name] for row in rows] for name in names}


def _choices(cohort: Cohort) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for found in cohort.series:
        counts.setdefault(found.block, Counter({"chosen": 0}))[found.reason or "chosen"] += 1
    return {block: dict(counts[block]) for block in sorted(counts)}


def _inherited(cohort: Cohort) -> dict[str, str]:
    columns = {
        f"{block}.{name}": agreement(column)
        for block, declared in cohort.declarations.items()
        if isinstance(declared, Mapping)
        for name, column in declared.items()
        if isinstance(column, FieldSpec | ResultSpec)
    }
    return {name: words for name, words in columns.items() if words}


def present(source: Source) -> bool:
    """Whether a block of a patient holds anything: a chosen series, one known value, a result, a note."""
    if isinstance(source, Mapping):
        return any(value.status is Status.KNOWN for value in source.values())
    return not isinstance(source, Absence)


def patterns(cohort: Cohort) -> dict[str, int]:
    """Count the patients by what they have, most frequent first: {"zones + PSA": 424, "zones only": 7, …}.

    Blocks that everybody has are left out, unless nothing else is left to say.
    """
    ordered = sorted(cohort.declarations, key=lambda block: block not in cohort.spec.images)
    blocks = {block: _shown(cohort, block) for block in ordered}
    has = [{block for block in blocks if present(patient.sources[block])} for patient in cohort.patients]
    varying = [block for block in blocks if any(block not in row for row in has)] or list(blocks)
    counts = Counter(tuple(block for block in varying if block in row) for row in has)
    named: dict[str, int] = {}
    for found, count in sorted(counts.items(), key=lambda item: (-len(item[0]), -item[1], item[0])):
        words = [blocks[block] for block in found]
        if not words:
            name = (
                "neither"
                if len(varying) == 2
                else f"no {blocks[varying[0]]}"
                if len(varying) == 1
                else "none"
            )
        else:
            name = words[0] + " only" if len(words) == 1 and len(varying) > 1 else " + ".join(words)
        named[name] = count
    return named


def _shown(cohort: Cohort, block: str) -> str:
    if block == "biomarkers" and cohort.spec.biomarkers:
        inputs = [(n, r) for n, r in cohort.spec.biomarkers.results.items() if r.role == "input"]
        if len(inputs) == 1:
            return inputs[0][1].label or inputs[0][0]
    return block


def _coverage(cohort: Cohort) -> Iterator[Coverage]:
    for block in cohort.declarations:
        sources = [patient.sources[block] for patient in cohort.patients]
        rows = [source for source in sources if isinstance(source, Mapping)]
        if not rows:
            absent = Counter(source.reason for source in sources if isinstance(source, Absence))
            yield Coverage(block, len(sources) - sum(absent.values()), dict(sorted(absent.items())))
            continue
        for name in rows[0]:
            counts = Counter(row[name].status.value for row in rows)
            known = counts.pop(Status.KNOWN.value, 0)
            yield Coverage(f"{block}.{name}", known, dict(sorted(counts.items())))


def _source_warnings(cohort: Cohort, root: Path | None) -> Iterator[str]:
    spec, flow = cohort.spec, cohort.flow
    if flow.undated.get("biomarkers"):
        yield "values without a date are used on your word; every page will say so"
    refused = flow.files.parts.get("refused", 0)
    if refused:
        yield f"{refused} files are refused; `medmm dicom index` says why"
    time, no_time = spec.prediction_time, flow.subjects.parts.get("no_prediction_time", 0)
    if no_time and time.table:
        form = spec.dates.get(time.table, {}).get(time.column or "")
        like = f"{form}, as `dates` says" if form else "2024-06-01 05:43, or `dates` say how it writes them"
        yield (
            f"{no_time} subjects have no usable prediction time: {time.column} of {time.table} must hold"
            f" dates like {like}"
        )
    for reason, count in flow.subjects.parts.items():
        if reason == "not_in_subjects" and count:
            yield f"{count} ids stand in other sources, but not in {spec.subjects.table}; do the ids match?"
    if root is None:
        return
    mentioned = {*spec.used_tables, *spec.never_tables}
    tables = (path for path in sorted(root.iterdir()) if path.suffix.lower() in SUFFIXES)
    for path in tables:
        if path.is_file() and path.name not in mentioned:
            yield f"{path.name} lies in the data root, but the specification does not mention it"


def _outcome_warnings(outcomes: Mapping[str, tuple[int, int]], patients: int) -> Iterator[str]:
    if not patients:
        yield "nobody is left: every subject is excluded, or has no prediction time; the flow says why"
        return
    for name, (positive, labelled) in outcomes.items():
        if labelled < patients:
            yield f"{name}: {patients - labelled} patients have no label; they are scored, never trained on"
        rarer = min(positive, labelled - positive)
        if rarer == 0:
            found = "no labels" if not labelled else f"one class only, {positive} of {labelled} positive"
            yield f"{name}: {found}; it cannot be trained. Look at `positive` in cohort.yaml"
        elif rarer < 50:
            yield f"{name}: {rarer} patients in the rarer class; every figure will be uncertain"


def _field_warnings(cohort: Cohort, coverage: Sequence[Coverage]) -> Iterator[str]:
    total = len(cohort.patients)
    if total < MIN_PATIENTS:
        return
    for item in coverage:
        if item.known < SPARSE * total:
            yield f"{item.name}: {item.known} of {total} patients have it"
        bad = item.absent.get(Status.IMPLAUSIBLE.value, 0)
        if bad:
            yield f"{item.name}: {bad} values outside the plausible range were set to missing"
        block, _, name = item.name.partition(".")
        if name:
            values = [patient.sources[block][name] for patient in cohort.patients]  # type: ignore[index]
            yield from _value_warnings(cohort, item.name, values)


def _value_warnings(cohort: Cohort, name: str, values: Sequence[Value]) -> Iterator[str]:
    known = [value.value for value in values if value.status is Status.KNOWN]
    distinct = len(set(known))
    if distinct == 1:
        yield f"{name}: everybody has the same value; it tells nothing"
    if known and isinstance(known[0], str) and distinct > MIN_PATIENTS and distinct > len(known) / 2:
        yield f"{name}: nearly every patient has a category of their own; is it an id or free text?"
    for outcome, spec in cohort.spec.outcomes.items():
        targets = np.array([patient.targets.get(outcome, np.nan) for patient in cohort.patients])
        labels, asked = halved(spec, targets)
        labelled = [
            (value.value, label)
            for value, label in zip(values, labels.tolist(), strict=True)
            if isinstance(value.value, float) and not np.isnan(label)
        ]
        area = _auroc(labelled)
        if area >= LEAK_AUROC:
            what = f"{outcome} ({asked})" if asked else outcome
            yield f"{name}: alone it ranks {what} with an AUROC of {area:.2f}; was it known in time?"


def _auroc(pairs: Sequence[tuple[float, float]]) -> float:
    """The rank statistic of Mann and Whitney in the better direction; 0.5 below 10 of either class."""
    positives = sorted(value for value, label in pairs if label)
    negatives = sorted(value for value, label in pairs if not label)
    if min(len(positives), len(negatives)) < 10:
        return 0.5
    wins = sum((bisect_left(negatives, value) + bisect_right(negatives, value)) / 2 for value in positives)
    area = wins / (len(positives) * len(negatives))
    return max(area, 1 - area)
