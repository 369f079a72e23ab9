"""The reference population: whom a patient is compared with when a score is explained.

From the training split only. The whole population, or weighted real patients of it (medoids), are
patient data and stay in a local file named by its digest; what travels in a bundle is centroids, each
the mean of at least 11 patients where the cohort allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import get_args

import numpy as np

from medmm.arrays import Array, Bools, Float32, Float64, Ints
from medmm.attribution.game import Kind, Model, Reference
from medmm.errors import DataError

SMALLEST = 11
"""Patients behind a centroid where the cohort allows: fewer could point at a person (CMS cell size)."""

MEDOIDS = 200
"""Patients that stand for a larger population."""

CENTROIDS = 32
"""Centroids at most: a field game over ten fields then takes 2^10 · 32 rows."""


def population(
    names: tuple[str, ...],
    present: Bools,
    embeddings: Mapping[str, Float32],
    rows: Mapping[str, Float32],
) -> Reference:
    """Return the reference that is the whole training split, each patient weighing the same.

    Args:
        names: the modalities, in the order of ``present``.
        present: ``[patient, modality]``.
        embeddings: ``[patient, width]`` per modality; rows of absent patients are set to zeros.
        rows: ``[patient, feature]`` per table; where absent, the row of a patient without a known field.

    Raises:
        DataError: if the arrays do not fit each other or are not finite.
    """
    cleaned = {
        name: np.where(present[:, i : i + 1], embeddings[name], 0).astype(np.float32)
        for i, name in enumerate(names)
    }
    weights = np.full(len(present), 1 / max(1, len(present)))
    return _reference(names, present, cleaned, rows, weights, "population")


def medoids(whole: Reference, *, count: int = MEDOIDS, seed: int = 0) -> Reference:
    """Return weighted real patients that stand for the population; the population itself if it is small.

    Within each presence pattern, the patients nearest to the centres of a k-means clustering of the
    standardised rows and embeddings; each weighs as its cluster, so presence patterns keep their shares.

    Args:
        whole: the population.
        count: medoids wanted, at least one per pattern.
        seed: of the clustering.
    """
    if len(whole.weights) <= count:
        return whole
    chosen: list[int] = []
    weights: list[float] = []
    for pattern in _patterns(whole.present):
        space = _space(whole, pattern)
        clusters = _clusters(space, max(1, round(count * len(pattern) / len(whole.weights))), seed)
        for cluster in range(clusters.max() + 1):
            own = np.flatnonzero(clusters == cluster)
            distance = ((space[own] - space[own].mean(axis=0)) ** 2).sum(axis=1)
            chosen.append(int(pattern[own[distance.argmin()]]))
            weights.append(float(whole.weights[pattern[own]].sum()))
    return _reference(
        whole.names,
        whole.present[chosen],
        {name: x[chosen] for name, x in whole.embeddings.items()},
        {name: x[chosen] for name, x in whole.rows.items()},
        np.array(weights),
        "medoids",
    )


def centroids(
    whole: Reference, model: Model, *, count: int = CENTROIDS, smallest: int = SMALLEST, seed: int = 0
) -> Reference:
    """Return means of groups of patients that stand for the population and point at nobody.

    Patients are grouped by presence pattern; a pattern of fewer than ``smallest`` patients joins the
    pattern most like it, and the joined group has the modalities that at least ``smallest`` of its
    patients have. Within a group, k-means on the standardised rows and embeddings; clusters below
    ``smallest`` join the nearest. A table's embedding is the encoded mean row, so that field games start
    where the modality game stands. A cohort smaller than ``smallest`` is one centroid.

    Args:
        whole: the population.
        model: encodes the mean rows.
        count: centroids at most (one per group at least).
        smallest: patients behind a centroid.
        seed: of the clustering.
    """
    means: list[tuple[Bools, dict[str, Float64], dict[str, Float64], float]] = []
    for group in _groups(whole.present, smallest):
        has = _common_presence(whole.present[group], smallest)
        whole_share = float(whole.weights[group].sum())
        core = group[(whole.present[group] | ~has).all(axis=1)]
        if len(core) < smallest:
            means.append((has, *_means(whole, group, has), whole_share))
            continue
        wanted = min(round(count * whole_share), len(core) // smallest)
        clusters = _joined_clusters(_space(whole, core, has), max(1, wanted), smallest, seed)
        for cluster in np.unique(clusters):
            own = core[clusters == cluster]
            means.append((has, *_means(whole, own, has), whole_share * len(own) / len(core)))
    embeddings = {n: np.stack([e[n] for _, e, _, _ in means]).astype(np.float32) for n in whole.names}
    rows = {n: np.stack([r[n] for _, _, r, _ in means]).astype(np.float32) for n in whole.rows}
    present = np.stack([has for has, _, _, _ in means])
    for name, table in rows.items():
        there = present[:, whole.names.index(name)]
        embeddings[name] = np.where(there[:, None], model.encode(name, table), 0).astype(np.float32)
    weights = np.array([weight for _, _, _, weight in means])
    return _reference(whole.names, present, embeddings, rows, weights, "centroids")


def base_and_error(model: Model, reference: Reference) -> tuple[float, float]:
    """Return the mean logit over the reference, and its sampling error, in log-odds.

    The error is the weighted standard error of the mean for medoids (an upper bound, since they are
    spread over the population on purpose) and 0 for the population. Centroids are not a sample: their base
    differs from the population's by what the fusion bends between them; compare the two bases instead.
    """
    logits = model.fuse(reference.embeddings, reference.present)
    base = float(reference.weights @ logits)
    if reference.kind != "medoids":
        return base, 0.0
    variance = float(reference.weights @ (logits - base) ** 2)
    return base, float(np.sqrt(variance * (reference.weights**2).sum()))


def to_arrays(reference: Reference) -> dict[str, Array]:
    """Return the reference as flat arrays, for safetensors; :func:`from_arrays` is the inverse."""
    return {
        "present": reference.present,
        "weights": reference.weights,
        **{f"embeddings.{name}": x for name, x in reference.embeddings.items()},
        **{f"rows.{name}": x for name, x in reference.rows.items()},
    }


def from_arrays(arrays: Mapping[str, Array], names: tuple[str, ...], kind: str) -> Reference:
    """Return the reference written by :func:`to_arrays`; its digest is computed anew.

    Raises:
        DataError: if an array is missing, of another shape or not finite, or the kind is unknown.
    """
    wanted = {"present", "weights", *(f"embeddings.{name}" for name in names)}
    tables = {key.removeprefix("rows."): x for key, x in arrays.items() if key.startswith("rows.")}
    if kind not in get_args(Kind) or set(arrays) - {f"rows.{name}" for name in tables} != wanted:
        raise DataError(
            f"reference population: expected {sorted(wanted)} and rows, found {sorted(arrays)}, {kind}"
        )
    return _reference(
        names,
        np.asarray(arrays["present"], dtype=np.bool_),
        {name: np.asarray(arrays[f"embeddings.{name}"], dtype=np.float32) for name in names},
        {name: np.asarray(x, dtype=np.float32) for name, x in tables.items()},
        np.asarray(arrays["weights"], dtype=np.float64),
        kind,  # type: ignore[arg-type]
    )


def _reference(
    names: tuple[str, ...],
    present: Bools,
    embeddings: Mapping[str, Float32],
    rows: Mapping[str, Float32],
    weights: Float64,
    kind: Kind,
) -> Reference:
    tables = {name: np.asarray(x, dtype=np.float32) for name, x in rows.items()}
    arrays: list[Array] = [*embeddings.values(), *tables.values()]
    fits = all(x.ndim == 2 and len(x) == len(weights) and np.isfinite(x).all() for x in arrays)
    if not fits or present.shape != (len(weights), len(names)) or not set(tables) <= set(names):
        raise DataError(
            "reference population: presence, embeddings and rows must be finite, one row per patient"
        )
    if not len(weights) or not (weights > 0).all() or abs(weights.sum() - 1) > 1e-9:
        raise DataError(
            "reference population: weights must be positive and sum to 1, for at least one patient"
        )
    digest = hashlib.sha256(repr((kind, names)).encode())
    for label, x in sorted({"present": present, "weights": weights, **_labelled(embeddings, tables)}.items()):
        digest.update(f"{label} {x.shape} {x.dtype}".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return Reference(names, present, dict(embeddings), tables, weights, kind, digest.hexdigest())


def _labelled(embeddings: Mapping[str, Float32], rows: Mapping[str, Float32]) -> dict[str, Float32]:
    return {f"embeddings.{n}": x for n, x in embeddings.items()} | {f"rows.{n}": x for n, x in rows.items()}


def _patterns(present: Bools) -> list[Ints]:
    """Return the patients of each presence pattern, the most frequent pattern first."""
    _, which = np.unique(present, axis=0, return_inverse=True)
    found = [np.flatnonzero(which.ravel() == i) for i in range(which.max() + 1)]
    return sorted(found, key=lambda members: (-len(members), int(members[0])))


def _groups(present: Bools, smallest: int) -> list[Ints]:
    """Return presence patterns, those below ``smallest`` joined to the most similar one, rarest first."""
    groups = _patterns(present)
    while len(groups) > 1 and len(groups[-1]) < smallest:
        rare = groups.pop()
        apart = [np.abs(present[g].mean(axis=0) - present[rare].mean(axis=0)).sum() for g in groups]
        nearest = int(np.argmin(apart))
        groups[nearest] = np.sort(np.concatenate([groups[nearest], rare]))
        groups.sort(key=lambda members: (-len(members), int(members[0])))
    return groups


def _common_presence(present: Bools, smallest: int) -> Bools:
    """Return the modalities that enough of a group has; of a small cohort, that most of it has."""
    having = present.sum(axis=0)
    enough = having >= smallest if len(present) >= smallest else 2 * having > len(present)
    return np.asarray(enough)


def _space(whole: Reference, members: Ints, has: Bools | None = None) -> Float64:
    """Return the members' rows and embeddings of the modalities they all have, standardised over them."""
    common = whole.present[members].all(axis=0) if has is None else has
    parts = [np.zeros((len(members), 1))]
    for i in np.flatnonzero(common):
        # A table speaks through its row, which the field game moves; only an image needs its embedding.
        name = whole.names[i]
        x = whole.rows.get(name, whole.embeddings[name])[members].astype(np.float64)
        # Each modality weighs the same, whatever its width.
        parts.append((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6) / np.sqrt(x.shape[1]))
    return np.concatenate(parts, axis=1)


def _clusters(space: Float64, count: int, seed: int) -> Ints:
    """Return the cluster ``[member]`` of each member, 0 … at most ``count`` - 1, none of them empty."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(space, axis=0))
    fitted = KMeans(min(count, distinct), n_init=4, random_state=seed).fit(space)
    _, labels = np.unique(fitted.labels_, return_inverse=True)
    return np.asarray(labels)


def _joined_clusters(space: Float64, count: int, smallest: int, seed: int) -> Ints:
    """Cluster, and join the smallest cluster to the nearest one until none is too small."""
    clusters = _clusters(space, count, seed)
    while True:
        labels, sizes = np.unique(clusters, return_counts=True)
        if len(labels) == 1 or sizes.min() >= smallest:
            return clusters
        small = labels[sizes.argmin()]
        rest = labels[labels != small]
        centre = space[clusters == small].mean(axis=0)
        apart = [((space[clusters == label].mean(axis=0) - centre) ** 2).sum() for label in rest]
        clusters = np.where(clusters == small, rest[int(np.argmin(apart))], clusters)


def _means(whole: Reference, members: Ints, has: Bools) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return mean embeddings and rows over the members who have each modality; zeros where it is absent.

    The row of an absent table is that of the patients without it: nothing known.
    """
    embeddings: dict[str, Float64] = {}
    rows: dict[str, Float64] = {}
    for i, name in enumerate(whole.names):
        own = members[whole.present[members, i]] if has[i] else np.flatnonzero(~whole.present[:, i])
        embeddings[name] = whole.embeddings[name][own].mean(axis=0, dtype=np.float64)
        if name in whole.rows:
            rows[name] = whole.rows[name][own].mean(axis=0, dtype=np.float64)
    return embeddings, rows
