"""The accounting: every subject, file and result ends in exactly one place, and the sums add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Account:
    """A whole, counted on its own, and the parts it was divided into.

    Attributes:
        total: counted from the source, not from the parts.
        parts: number per fate; a fate that befell nothing is left out.
    """

    name: str
    total: int
    parts: Mapping[str, int]

    def __post_init__(self) -> None:
        if sum(self.parts.values()) != self.total:
            raise AssertionError(f"{self.name}: {self.total} != {dict(self.parts)}; something went uncounted")

    def line(self) -> str:
        """Return "subjects 1062 = 1062 kept + 0 excluded"."""
        parts = " + ".join(f"{count} {fate}" for fate, count in self.parts.items())
        return f"{self.name} {self.total} = {parts or '0'}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the data that a person should look at; nothing was mended on the way.

    Attributes:
        what: in words, with table or field and never with a cell of a person.
        count: how often.
        examples: pseudonyms of some whom it befell.
    """

    what: str
    count: int
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """Return "biomarkers.crp: … : 3 (such as 0123456789abcdef)"."""
        return f"{self.what}: {self.count}" + (
            f" (such as {', '.join(self.examples)})" if self.examples else ""
        )


@dataclass(frozen=True, slots=True)
class Flow:
    """Who and what was left out of a cohort, and why.

    Attributes:
        subjects: all ids of all sources = kept + excluded by reason.
        files: files on disk = used + set aside + refused + not chosen.
        results: rows of the long table = used + each other fate.
        notes: rows of the table of notes = known + each other fate.
        undated: number of results and series used on a person's word, per block.
        unparsable: per "block.field", the cells that could not be read and how often each stands there.
        times: how many prediction times came from which source ("mri_date", "StudyDate", …).
        findings: what is odd in the data, with examples by pseudonym.
    """

    subjects: Account
    files: Account
    results: Account
    notes: Account
    undated: Mapping[str, int] = field(default_factory=dict)
    unparsable: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    times: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The accounts of whatever the cohort has."""
        every = (self.subjects, self.files, self.results, self.notes)
        return tuple(account for account in every if account.total or account is self.subjects)
