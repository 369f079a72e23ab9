"""One training run by several processes at once, spread over the machines of a Ray cluster."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medmm.cluster import together
from medmm.cohort.site import site_key
from medmm.errors import ClusterError
from medmm.train import Progress, follow, leads, open_run, plan, summary, train

TRACKING = "MLFLOW_"
"""Variables that begin so go along: the leader tracks, on whatever machine it is."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A finished run, as its leader tells of it: the folder of the bundle, and lines for a terminal."""

    bundle: Path
    lines: tuple[str, ...]


def launch(
    pipeline: Path,
    run: Path,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    processes: int,
    cluster: str,
    progress: Progress | None = None,
) -> Launched:
    """Train in several processes that share every batch (:func:`medmm.cluster.together`).

    Args:
        pipeline: folder of the recipe; with the data and the run it lies under the same path everywhere.
        run: from :func:`medmm.train.open_run`; it is taken up by all.
        root: as in :func:`medmm.train.plan`.
        splits: as in :func:`medmm.train.plan`.
        processes: how many; each asks for one core.
        cluster: address of the Ray cluster, or ``local``.
        progress: called here with (stage, done, total), as the leader tells of it.

    Raises:
        ClusterError: if the cluster does not answer, is too small, or a machine has another site key.
    """
    work = partial(
        _member,
        pipeline.resolve(),
        run.resolve(),
        root and root.resolve(),
        splits and splits.resolve(),
        {name: value for name, value in os.environ.items() if name.startswith(TRACKING)},
        _key_digest(),
    )
    found = together(work, processes=processes, address=cluster, progress=progress)
    (finished,) = (one for one in found if one is not None)
    return finished


def _member(
    pipeline: Path,
    run: Path,
    root: Path | None,
    splits: Path | None,
    variables: Mapping[str, str],
    key: str,
    progress: Progress,
) -> Launched | None:
    """Train with the others; only the leader has something to tell."""
    if _key_digest() != key:
        raise ClusterError(
            "a machine of the cluster has another site key, and would give the patients other pseudonyms; put"
            " the same key there, or share the home folder"
        )
    os.environ.update(variables)
    planned = plan(pipeline, root=root, splits=splits)
    opened = open_run(planned, run.parent, run)
    if not leads():
        follow(planned, opened)
        return None
    trained = train(planned, opened, progress=progress)
    return Launched(trained.bundle, tuple(summary(trained)))


def _key_digest() -> str:
    """Return what tells two site keys apart and gives neither away."""
    return hashlib.sha256(b"medmm site key" + site_key()).hexdigest()
