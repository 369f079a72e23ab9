"""The folder of a run: bound to its recipe, cohort and version, worked on by one command at a time.

A run is finished once its page is written and it is tracked, which ``finished.json`` says. One that was
killed after its bundle was sealed keeps that bundle, and the rest is done when it is taken up again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medmm import tracking
from medmm.bundle import verify
from medmm.errors import ConfigError, OutputError, told
from medmm.fitting.assemble import weights_named
from medmm.fitting.processes import agreed, from_leader, leads
from medmm.modality import Declaration
from medmm.report.page import write_page
from medmm.telling import Plan

WORDS = {
    "recipe": "recipe",
    "cohort": "cohort or --splits",
    "columns": "order of columns in cohort.yaml",
    "patients": "selection of patients (--smoke)",
    "pretrained": "folder of pretrained encoders",
    "weights": "file of pretrained weights",
}
"""What a run is bound to, in the words of its user."""

FINISHED = "finished.json"
"""Says of a run that nothing is left to do, and which bundle it made."""

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
"""What a file system that has no locks says to who asks for one."""


def open_run(planned: Plan, runs: Path, resume: Path | None = None) -> Path:
    """Return the folder of a run, new or taken up again; a run is bound to its recipe and its patients.

    Of several processes the leader opens it, and the others hear of it. They fit together only what all have
    planned alike, since a sum of the gradients of other patients looks like any other.

    Args:
        runs: folder of all runs.
        resume: the folder of a run that was stopped.

    Raises:
        ConfigError: if the processes have not planned the same, or the run to resume is finished, or was of
            another recipe, of other patients, of other pretrained encoders, other pretrained weights or
            another version of medmm.
        BundleError: if the pretrained encoders are damaged or altered.
        OutputError: if the folder cannot be written.
    """
    identity = _identity(planned)
    if not agreed(_planned_alike(planned, identity)):
        raise ConfigError(
            "the processes have not planned the same run; medmm, recipe, data, --splits and pretrained"
            " weights must be the same on every machine: let all of them see the same folders"
        )
    if not leads():
        return Path(from_leader(""))
    opened = _begun(planned, runs, identity) if resume is None else _resumed(resume, identity)
    return Path(from_leader(str(opened)))


def _identity(planned: Plan) -> dict[str, Any]:
    """Return what the fits of a run depend on; a smoke run takes some of the patients."""
    patients = sorted(patient.pseudonym for patient in planned.patients)
    pretrained = planned.recipe.pretrained_folder
    return {
        "recipe": planned.recipe.model_dump(mode="json"),
        "cohort": planned.cohort.digest,
        "columns": columns_of(planned.cohort.declarations),
        "patients": hashlib.sha256("\n".join(patients).encode()).hexdigest(),
        "pretrained": None if pretrained is None else verify(pretrained),
        "weights": weights_named(planned.recipe, planned.cohort.declarations) or None,
    }


def columns_of(declarations: Mapping[str, Declaration]) -> list[list[str]]:
    """Return each modality's name and the columns it takes, in the order in which a network learns them."""
    return [
        [name, *(declared if isinstance(declared, Mapping) else ())]
        for name, declared in declarations.items()
    ]


def _planned_alike(planned: Plan, identity: Mapping[str, Any]) -> str:
    """Return a digest of what every process must fit alike; pseudonyms may be another site's, ids may not."""
    told = [
        version("medmm"),
        {key: value for key, value in identity.items() if key != "patients"},
        [patient.subject_id for patient in planned.patients],
        [folds.tolist() for folds in (planned.folds, *planned.more)],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _begun(planned: Plan, runs: Path, identity: Mapping[str, Any]) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run = runs / f"{planned.recipe.name}-{stamp}-{secrets.token_hex(2)}"
    make_private(runs)
    try:
        run.mkdir(mode=0o700)
        (run / "run.json").write_text(json.dumps({"medmm": version("medmm")} | dict(identity), indent=1))
        planned.splits.save(run / "splits.json")
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write to {str(runs)!r}: {told(error)}; choose another --runs") from error
    return run


def _resumed(run: Path, identity: Mapping[str, Any]) -> Path:
    try:
        begun = dict(json.loads((run / "run.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{run} is not a run: its run.json cannot be read") from error
    if (run / FINISHED).exists():
        raise ConfigError(f"{run} is finished, and its bundle stays; start anew without --resume")
    # first: another version may also write a recipe down otherwise
    if begun.get("medmm") != version("medmm"):
        raise ConfigError(
            f"{run} was begun by medmm {begun.get('medmm', 'of an earlier time')}, and this is"
            f" {version('medmm')}, which may fit otherwise; take that version, or start anew without --resume"
        )
    # As text: what is taken in another order is learned in another order.
    other = [WORDS[key] for key, value in identity.items() if json.dumps(begun.get(key)) != json.dumps(value)]
    if other:
        raise ConfigError(
            f"{run} was of another {' and of another '.join(other)}; call it as it was begun, or start anew"
            " without --resume"
        )
    return run


def sealed(run: Path) -> bool:
    """Tell whether a run has its bundle already: it was stopped before its page or its tracking was done."""
    return (run / "bundle").exists()


def finish(run: Path, sha256: str) -> None:
    """Write down that nothing of a run is left to do.

    Args:
        sha256: of its bundle.
    """
    write_page(json.dumps({"bundle_sha256": sha256}) + "\n", run / FINISHED)


def make_private(runs: Path) -> None:
    """Make the folder of all runs this user's alone: images, splits and tracking lie in it.

    Raises:
        OutputError: if the folder cannot be written.
    """
    try:
        if not runs.exists():
            runs.mkdir(parents=True, mode=0o700)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write to {str(runs)!r}: {told(error)}; choose another --runs") from error


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other commands out of a run's folder, in which both would write the same files.

    The lock ends with the process, however that ends. Where the file system has no locks nothing is held.

    Raises:
        ConfigError: if another command is at work there.
    """
    with (run / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another command is at work in {run}; wait for it or end it, then --resume"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield


@contextmanager
def tracked(experiment: str, run: Path) -> Iterator[tracking.Run]:
    """Track a run, or go on with what was tracked of it before it was stopped."""
    file = run / "tracking.txt"
    earlier = file.read_text() if file.exists() else None
    with tracking.tracked(experiment, run.name, uri=tracking.store(run.parent), run_id=earlier) as found:
        file.write_text(found.run_id)
        yield found
