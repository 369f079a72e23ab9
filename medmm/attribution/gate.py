"""The sanity gate of image maps: a map that says nothing of the model must not be shown.

Checks per model and image, most on a handful of patients. *Skill*: out-of-fold, the image alone must rank
patients better than chance; where it does not, a map shows where nothing was found. *Randomisation*: the
map of the same model with a freshly initialised encoder must look different. *Deletion*: blurring the
voxels with the most positive attribution must lower the logit more than blurring as many others. *Finding*,
where masks of a finding are given: the map must hold more of itself inside it than the randomised model's
map does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from medmm.arrays import Bools, Float32, Ints
from medmm.attribution.image import LogitOfImage, blurred, integrated_gradients

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate
    from medmm.network.network import Network

SIMILARITY = 0.8
"""Rank correlation with a randomised model's map from which a map counts as the image's own contrast.

Between two models with different random encoders it is 0.2 (radiograph) to 0.64 (label map) in the voxels
with detail; a map that only follows the contrast has 1.
"""

RANDOMISATIONS = 2
"""Freshly initialised encoders that each patient's map is compared with."""

DELETED = 0.1
"""Share of the voxels with detail that is blurred at once."""

RANDOM_DELETIONS = 4
"""Random choices of voxels that the deletion of the top voxels is compared with, on average."""

SIGNIFICANCE = 0.05
"""One-sided level of the sign tests over patients; five patients are the fewest that can reach it."""

ENRICHMENT = 2.0
"""Attribution inside a finding, as a share, must be this many times the finding's share of the volume."""

CHANCE = 0.5
"""AUROC of a score that says nothing."""

NO_DETAIL = 1e-6
"""Voxels whose distance to the blurred image is below this share of the largest carry no attribution."""


@dataclass(frozen=True, slots=True, eq=False)
class GatePatient:
    """One patient on whom maps are tried.

    Attributes:
        inputs: by modality, without a batch axis; absent ones need no key.
        present: ``[modality]``, in the network's order.
        finding: ``[*shape]`` of the image, where its finding is, or None where that is not known.
    """

    inputs: Mapping[str, Float32]
    present: Bools
    finding: Bools | None = None


@dataclass(frozen=True, slots=True)
class GateRow:
    """One check.

    Attributes:
        check: "randomisation", "deletion", "skill" or "finding".
        passed: what it says of the map.
        figure: median rank correlation, share of patients in whom deletion went the right way, AUROC, or
            median enrichment of the finding.
        bound: what the figure was held against.
        patients: on whom the check was made.
        sentence: the figure in words.
    """

    check: str
    passed: bool
    figure: float
    bound: float
    patients: int
    sentence: str


@dataclass(frozen=True, slots=True)
class GateReport:
    """Whether the maps of one image of one model may be shown, and why."""

    image: str
    passed: bool
    rows: tuple[GateRow, ...]

    @property
    def sentence(self) -> str:
        """The verdict and its reasons."""
        held = [row for row in self.rows if not row.passed]
        verdict = "Sanity gate passed" if self.passed else "Map withheld, sanity gate not passed"
        return f"{verdict}: " + "; ".join(row.sentence for row in (held or self.rows)) + "."


@dataclass(frozen=True, slots=True)
class _Trial:
    """The figures of one patient."""

    similarity: float
    top_drop: float
    other_drop: float
    inside: float
    inside_randomised: float
    volume: float


def gate(
    network: Network,
    patients: Sequence[GatePatient],
    name: str,
    *,
    skill: tuple[Estimate, int] | None = None,
    seed: int = 0,
) -> GateReport:
    """Try the maps of one image on some patients; with fewer than five no check can pass.

    Args:
        network: the fitted network; not touched.
        patients: who have the image; about ten.
        name: the image.
        skill: out-of-fold AUROC of the image alone, and of how many patients; without it, the check is not
            made.
        seed: of the randomised encoders and deletions.

    Source: Adebayo et al. 2018 (randomisation); Samek et al. 2017 (deletion).

    Raises:
        ExplanationError: if a patient lacks the image, or a logit is not finite.
    """
    randomised = [_randomised(network, name, seed + i) for i in range(RANDOMISATIONS)]
    rng = np.random.default_rng(seed)
    trials = [_trial(network, randomised, patient, name, rng) for patient in patients]
    rows = [_randomisation(trials), _deletion(trials)]
    if skill is not None:
        rows.append(_skill(*skill))
    with_finding = [trial for trial in trials if trial.volume > 0]
    if with_finding:
        rows.append(_finding(with_finding))
    return GateReport(name, all(row.passed for row in rows), tuple(rows))


def _randomisation(trials: Sequence[_Trial]) -> GateRow:
    figure = float(np.median([t.similarity for t in trials])) if trials else np.nan
    different = _mostly([t.similarity < SIMILARITY for t in trials])
    return GateRow(
        "randomisation",
        different,
        figure,
        SIMILARITY,
        len(trials),
        f"rank correlation with a randomised encoder's map {figure:.2f} in {len(trials)} patients "
        f"(must stay below {SIMILARITY})",
    )


def _deletion(trials: Sequence[_Trial]) -> GateRow:
    right = [t.top_drop > t.other_drop for t in trials]
    figure = float(np.mean(right)) if right else np.nan
    return GateRow(
        "deletion",
        _mostly(right),
        figure,
        SIGNIFICANCE,
        len(trials),
        f"blurring the {DELETED:.0%} of voxels with the highest attribution lowered the logit more than "
        f"blurring others in {sum(right)} of {len(trials)} patients (sign test at {SIGNIFICANCE})",
    )


def _skill(auroc: Estimate, patients: int) -> GateRow:
    """A network that never learned passes the other checks: its map follows a logit that says nothing."""
    return GateRow(
        "skill",
        auroc.lower > CHANCE,
        auroc.value if np.isfinite(auroc.value) else CHANCE,
        CHANCE,
        patients,
        f"out-of-fold, the image alone has an AUROC of {auroc} (its interval must lie above {CHANCE})",
    )


def _finding(trials: Sequence[_Trial]) -> GateRow:
    figure = float(np.median([t.inside / t.volume for t in trials]))
    more = _mostly([t.inside > t.inside_randomised for t in trials])
    share, volume = (float(np.median([getattr(t, key) for t in trials])) for key in ("inside", "volume"))
    return GateRow(
        "finding",
        more and figure >= ENRICHMENT,
        figure,
        ENRICHMENT,
        len(trials),
        f"{share:.0%} of the attribution inside the finding, which is {volume:.1%} of the volume, in "
        f"{len(trials)} patients (must be {ENRICHMENT:g} times as dense there, and denser than a randomised "
        "encoder's)",
    )


def _trial(
    network: Network, randomised: Sequence[Network], patient: GatePatient, name: str, rng: np.random.Generator
) -> _Trial:
    own = _map(network, patient, name)
    image = np.asarray(patient.inputs[name], dtype=np.float32)
    contrast = np.abs(image - blurred(image)).sum(axis=0)
    others = [_map(model, patient, name) for model in randomised]
    detail = np.flatnonzero(contrast > NO_DETAIL * contrast.max())
    # Where the image has little detail every model's map is near 0: there, maps only agree on the image.
    upper = detail[contrast.ravel()[detail] >= np.median(contrast.ravel()[detail])] if len(detail) else detail
    top, other = _drops(LogitOfImage(network, patient.inputs, patient.present, name), image, own, detail, rng)
    finding = np.zeros(own.shape, dtype=np.bool_) if patient.finding is None else patient.finding
    return _Trial(
        similarity=float(np.mean([_rank_correlation(own, other, upper) for other in others])),
        top_drop=top,
        other_drop=other,
        inside=_inside(own, finding),
        inside_randomised=float(np.mean([_inside(other, finding) for other in others])),
        volume=float(finding.mean()),
    )


def _map(network: Network, patient: GatePatient, name: str) -> Float32:
    return integrated_gradients(network, patient.inputs, patient.present, name, max_steps=16).spatial


def _drops(
    logit: LogitOfImage, image: Float32, attribution: Float32, detail: Ints, rng: np.random.Generator
) -> tuple[float, float]:
    """Return by how much the logit falls without the top voxels, and at most without as many others.

    The others are random voxels with detail (mean of four choices), and those with the least attribution.
    """
    baseline = blurred(image)
    count = max(1, round(DELETED * len(detail)))
    values = attribution.ravel()[detail]
    chosen = [
        detail[np.argsort(-values, kind="stable")[:count]],
        detail[np.argsort(np.abs(values), kind="stable")[:count]],
        *(rng.choice(detail, size=min(count, len(detail)), replace=False) for _ in range(RANDOM_DELETIONS)),
    ]
    images = np.repeat(image[None], len(chosen) + 1, axis=0)
    flat = images.reshape(len(images), image.shape[0], -1)
    for row, voxels in zip(flat[1:], chosen, strict=True):
        row[:, voxels] = baseline.reshape(image.shape[0], -1)[:, voxels]
    logits = logit.logits(images)
    drops = logits[0] - logits[1:]
    return float(drops[0]), float(max(drops[1], drops[2:].mean()))


def _randomised(network: Network, name: str, seed: int) -> Network:
    """Return a copy whose encoder of one image is freshly initialised; torch's own stream is left alone."""
    import torch

    fresh = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [fresh.encoders[name], *fresh.fusion.last_blocks(fresh.names.index(name))]
        for module in (module for part in parts for module in part.modules()):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh


def _rank_correlation(one: Float32, other: Float32, voxels: Ints) -> float:
    """Return Spearman's correlation of absolute values; 1 where a map is constant and so shows nothing."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.abs(x.ravel()[voxels])) for x in (one, other)]
    if len(voxels) < 2 or min(np.ptp(r) for r in ranks) == 0:
        return 1.0
    return float(np.corrcoef(ranks)[0, 1])


def _inside(attribution: Float32, finding: Bools) -> float:
    total = float(np.abs(attribution).sum(dtype=np.float64))
    return float(np.abs(attribution[finding]).sum(dtype=np.float64)) / total if total > 0 else 0.0


def _mostly(right: Sequence[bool]) -> bool:
    """Return whether so many are right that chance alone would reach it in at most 5 % of cases."""
    n, k = len(right), sum(right)
    return n > 0 and sum(comb(n, i) for i in range(k, n + 1)) / 2**n <= SIGNIFICANCE
