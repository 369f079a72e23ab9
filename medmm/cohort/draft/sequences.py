"""Which series of one modality are of one kind: MR sequences, told by the words of their descriptions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medmm.cohort.disclosure import tellable

if TYPE_CHECKING:
    from medmm.dicom.index import SeriesEntry

_T1 = r"t1|mprage|spgr|bravo"
_GIVEN = r"(^|[^a-z])(gd|gad|km|post(?!er))|\+ ?c"
SEQUENCES: Mapping[str, str] = {
    "flair": r"flair|dark[ _-]?fl",
    "adc": r"(^|[^a-z])adc|apparent",
    "dwi": r"dwi|diff|trace|(^|[^a-z])dti",
    "swi": r"(^|[^a-z])swi|swan|suscept|t2(\*|star)",
    "t1_contrast": rf"({_T1}).*({_GIVEN})|({_GIVEN}).*({_T1})",
    "t1": _T1,
    "t2": r"t2",
    "pd": r"(^|[^a-z])pd([^a-z]|$)",
}
"""What a description calls an MR sequence, in the order in which it is tried."""
SHARE = 0.1
"""A kind of series that fewer of the patients have gets no block of its own."""
MOST_NAMED = 6
"""Descriptions that a question quotes."""


def kinds(entries: Sequence[SeriesEntry]) -> dict[str, tuple[str, list[SeriesEntry]]]:
    """Divide the MR series of a folder by sequence.

    Returns:
        Per name the regular expression of its descriptions, and its series; empty where the series are not
        of two kinds at least, each of which a tenth of the patients has.
    """
    found: dict[str, list[SeriesEntry]] = {}
    for entry in entries:
        found.setdefault(_sequence(entry.description), []).append(entry)
    patients = len({entry.patient_id for entry in entries})
    common = {
        name: own
        for name in SEQUENCES
        if (own := found.get(name)) and len({e.patient_id for e in own}) >= max(2, SHARE * patients)
    }
    if len(common) < 2:
        return {}
    return {name: (_pattern(name, found), own) for name, own in common.items()}


def _sequence(description: str) -> str:
    return next((name for name, words in SEQUENCES.items() if re.search(words, description, re.I)), "")


def _pattern(name: str, found: Mapping[str, Sequence[SeriesEntry]]) -> str:
    """Return the expression of a sequence, without what goes before it and would fit too."""
    own = SEQUENCES[name]
    before = list(SEQUENCES)[: list(SEQUENCES).index(name)]
    clash = [
        SEQUENCES[other]
        for other in before
        if any(re.search(own, entry.description, re.I) for entry in found.get(other, ()))
    ]
    return f"^(?!.*({'|'.join(clash)})).*({own})" if clash else own


def several(entries: Sequence[SeriesEntry]) -> str:
    """Ask which series is meant where most studies have several; "" where most have one."""
    studies = sorted(Counter(entry.study_uid for entry in entries).values())
    usual = studies[len(studies) // 2] if studies else 0
    if usual < 2:
        return ""
    words = Counter(entry.description for entry in entries if entry.description)
    named = [f"{word!r} {count}" for word, count in words.most_common(MOST_NAMED) if tellable(word, count)]
    told = f": {', '.join(named)}" if named else ""
    return (
        f"most studies have {usual} of these series, and one is taken; say which by `description`,"
        f" `thickness_mm` or `orientation`{told}"
    )
