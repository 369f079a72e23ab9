"""What a join tells of everybody: who is in, what is odd, what had no date or could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

from medmm.cohort.candidates import ODD_YEARS
from medmm.cohort.flow import Account, Finding
from medmm.cohort.moments import Moment
from medmm.cohort.opened import Opened
from medmm.cohort.site import pseudonym
from medmm.cohort.window import Results
from medmm.sample import Patient


def subjects(everybody: set[str], kept: Sequence[str], excluded: Mapping[str, str]) -> Account:
    """Count those who are in, and the others by reason."""
    reasons = list(excluded.values())
    parts = {"kept": len(kept)} | {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Account("subjects", len(everybody), parts if reasons else parts | {"excluded": 0})


def findings(
    opened: Opened,
    results: Results,
    kept: Sequence[str],
    predictions: Mapping[str, Moment],
    excluded: Mapping[str, str],
    key: bytes,
) -> Iterator[Finding]:
    """Yield what is odd in the tables, each with the pseudonyms of up to three people."""

    def such_as(those: Sequence[str]) -> tuple[str, ...]:
        return tuple(pseudonym(key, subject) for subject in sorted(those)[:3])

    yield from (Finding(f"{t.name}: {t.remark}", 1) for t in opened.tables.values() if t.remark)
    for what, (count, places) in results.odd.items():
        yield Finding(what, count, such_as([kept[place] for place in places]))
    first, last = (date(year, 1, 1).toordinal() - date(1970, 1, 1).toordinal() for year in ODD_YEARS)
    if opened.spec.prediction_time.day is None:
        odd = [s for s, moment in predictions.items() if not first <= moment.day < last]
        if odd:
            what = f"prediction times before {ODD_YEARS[0]} or after {ODD_YEARS[1]}"
            yield Finding(what, len(odd), such_as(odd))
    for reason, where in (
        ("not_in_subjects", "that stand in other sources only"),
        ("no_prediction_time", "without a usable prediction time"),
    ):
        those = [subject for subject, why in excluded.items() if why == reason]
        if those:
            yield Finding(f"{opened.spec.subjects.table}: ids {where}", len(those), such_as(those))


def undated(blocks: Iterable[str], patients: Sequence[Patient], results: Results) -> dict[str, int]:
    """Return, per block, how many of the values that are used have no date."""
    counts = {"biomarkers": results.undated} if results.undated else {}
    for patient in patients:
        for block, source in patient.sources.items():
            if block == "biomarkers":
                continue  # counted where all of them lie together
            if isinstance(source, Mapping):
                count = sum(value.undated for value in source.values())
            else:
                count = int(getattr(source, "undated", False))
            if count:
                counts[block] = counts.get(block, 0) + count
    return {block: counts[block] for block in blocks if block in counts}


def unparsable(fields: Mapping[str, Mapping[str, int]], results: Results) -> dict[str, Mapping[str, int]]:
    """Return, per field and result, the cells that could not be read and how often each stands there."""
    found = {f"records.{name}": dict(counts) for name, counts in sorted(fields.items())}
    return found | {f"biomarkers.{name}": counts for name, counts in sorted(results.unparsable.items())}
