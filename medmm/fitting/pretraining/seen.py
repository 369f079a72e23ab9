"""Who was pretrained on: a list beside the runs, which stays on this site.

Pretrained encoders may travel and name nobody. So that a run does not hold out whom they have seen, the
pseudonyms are kept under ``<runs>/pretraining/``, named by the hash of the encoders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medmm.cohort.link import Cohort
from medmm.cohort.site import site_mark
from medmm.cohort.wholes import HELD_OUT
from medmm.errors import ConfigError
from medmm.fitting.pretraining.beginning import Pretrained
from medmm.private import write_private


def note(runs: Path, sha256: str, pseudonyms: Sequence[str]) -> None:
    """Keep the list of who was pretrained on.

    Raises:
        OutputError: if it cannot be written.
    """
    body = {"site": site_mark(), "patients": sorted(pseudonyms)}
    write_private(json.dumps(body).encode(), _file(runs, sha256))


def doubt(pretrained: Pretrained, cohort: Cohort, runs: Path) -> str:
    """Return what cannot be known of the held-out patients; empty where surely nobody was pretrained on.

    Args:
        cohort: with everybody's split.
        runs: folder of all runs.

    Raises:
        ConfigError: if patients who are held out were pretrained on.
    """
    held = {patient.pseudonym for patient in cohort.patients if patient.split == HELD_OUT}
    seen = _seen(_file(runs, pretrained.sha256))
    both = len(held & seen) if seen is not None else 0
    if both:
        raise ConfigError(
            f"{both} of the {len(held)} patients held out here were pretrained on in `pretrained`"
            f" ({pretrained.sha256[:12]}), so nothing measured on them would hold; run `medmm pretrain` anew"
            " with this cohort and this division"
        )
    if not held or seen is not None or pretrained.cohort_digest == cohort.digest:
        return ""
    return (
        f"{pretrained.sha256[:12]} was pretrained on another cohort, or on this one before it was changed,"
        f" and no list of its patients is in {runs / 'pretraining'}: who is held out here may be among them"
    )


def _file(runs: Path, sha256: str) -> Path:
    return runs / "pretraining" / f"{sha256}.json"


def _seen(file: Path) -> set[str] | None:
    """Return the list; None where there is none, or it is of another site's pseudonyms."""
    try:
        body = json.loads(file.read_text())
        return set(body["patients"]) if body["site"] == site_mark() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
