"""Does the image earn its place? The fused model against each model without the image, honestly.

Asked on the patients who have the image, on out-of-fold scores, paired: the same resampled patients for
every model, pairs of patients compared only inside the fold whose models scored them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from medmm.arrays import Float64, Ints
from medmm.errors import DataError
from medmm.evaluation.discrimination import auroc_measure, has_pair
from medmm.evaluation.resampling import (
    RESAMPLES,
    Estimate,
    Measure,
    binary_labels,
    bootstrap,
    checked_folds,
    checked_scores,
)

MARGIN = 0.02
"""The smallest gain in AUROC for which an image would be worth having."""

FUSED = "fused"
"""The name of the fused model among the predictions."""

TABLES = "tables"
"""The fused model's own network with the image left out: what is gained over it, the image adds."""

TABLE_ONLY = (TABLES, "trees", "logistic")
"""The comparators that never see the image; these decide the verdict, others are only reported."""

Word: TypeAlias = Literal["helps", "does not help", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and the figures it rests on.

    Attributes:
        word: "helps" when the gain's lower bound is above 0 against every table-only model; else "does
            not help" when its upper bound is below the margin against at least one; else "cannot tell",
            also where no event can be compared with a non-event of the same fold.
        patients: who have the image and a score of every model.
        events: of these patients; -1 where the outcome has none.
        aurocs: AUROC of each model, within folds; empty where nothing can be compared.
        differences: AUROC of the fused model minus that of each other model; empty with ``aurocs``.
        margin: the smallest gain that would count.
        measure: what is compared, "AUROC" unless the outcome is of another kind.
        model: what is asked about in place of the fused model, and "gains" over the others.
    """

    word: Word
    patients: int
    events: int
    aurocs: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    margin: float
    measure: str = "AUROC"
    model: str = FUSED

    def sentence(self) -> str:
        """Return the verdict in plain words, with its figures."""
        answer = {
            "helps": "The image helps",
            "does not help": f"The image does not help (a gain of {self.margin:.2f} or more over"
            f" {self._excluding()} is excluded)",
            "cannot tell": "These data cannot tell whether the image helps",
        }[self.word]
        counted = f" ({self.events} events)" if self.events >= 0 else ""
        asked = f"{answer}: on {self.patients} patients with the image{counted}"
        article = "an" if self.measure == "AUROC" else "a"
        if not self.aurocs:
            return f"{asked}, no event can be compared with a non-event of the same fold."
        named = "the fused model" if self.model == FUSED else f"what ships ({self.model})"
        return (
            f"{asked}, out-of-fold, {named} has {article} {self.measure} of {self.aurocs[self.model]}; "
            f"{'; '.join(self._against())} (95 % intervals)."
        )

    def _against(self) -> list[str]:
        """Say what the image adds to its own network, how the best rival fares, and then the others."""
        rest = list(self.differences)
        rivals = [name for name in rest if name in TABLE_ONLY]
        best = max(rivals, key=lambda name: self.aurocs[name].value)
        parts = []
        same = self.model == FUSED and TABLES in rest  # the network that ships may be of another fusion
        if same:
            which = "without it, also the best rival," if best == TABLES else "without it"
            parts.append(
                f"the image adds {self._gain(TABLES)} to the same network {which} ({self._of(TABLES)})"
            )
        if best != TABLES or not same:
            parts.append(
                f"against the best rival without the image ({self._of(best)}) the difference is "
                f"{self._gain(best)}"
            )
        told = (TABLES, best) if same else (best,)
        others = [name for name in rest if name not in told]
        return parts + [f"{self._of(name)}, difference {self._gain(name)}" for name in others]

    def _excluding(self) -> str:
        """Name the table-only models over which a gain that would count is excluded."""
        deciding = [name for name in TABLE_ONLY if name in self.differences]
        return " and ".join(name for name in deciding if self.differences[name].upper < self.margin)

    def _of(self, name: str) -> str:
        return f"{name} {self.aurocs[name].value:.2f}"

    def _gain(self, name: str) -> str:
        return _signed(self.differences[name])


def verdict(
    labels: npt.ArrayLike,
    folds: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    *,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Verdict:
    """Compare the fused model with the others, on the patients who have the image.

    Args:
        labels: ``[patient]``, 0 or 1, of the patients who have the image.
        folds: ``[patient]``, the fold whose models scored the patient.
        predictions: per model, out-of-fold scores ``[patient]`` of any scale; "fused" and at least one
            of "tables" and "trees" must be there.
        margin: the smallest gain in AUROC that would count.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The verdict; "cannot tell", without figures, where no event and non-event share a fold.

    Raises:
        DataError: if a model is missing, or an array is malformed.
    """
    deciding = [name for name in TABLE_ONLY if name in predictions]
    if FUSED not in predictions or not deciding:
        raise DataError(
            f"a verdict compares {FUSED!r} with at least one of {TABLE_ONLY}; given: {sorted(predictions)}"
        )
    truth = binary_labels(labels)
    groups = checked_folds(folds, len(truth))
    values = {name: checked_scores(scores, len(truth)) for name, scores in predictions.items()}
    if not has_pair(truth, groups):
        return Verdict("cannot tell", len(truth), int(truth.sum()), {}, {}, margin)
    measures: dict[str, Measure] = {
        name: auroc_measure(truth, scores, groups) for name, scores in values.items()
    }
    others = [name for name in predictions if name != FUSED]
    gains = {f"{FUSED} - {name}": _gain(measures[FUSED], measures[name]) for name in others}
    found = bootstrap({**measures, **gains}, truth, groups, resamples=resamples, seed=seed)
    differences = {name: found[f"{FUSED} - {name}"] for name in others}
    return Verdict(
        word=_word([differences[name] for name in deciding], margin),
        patients=len(truth),
        events=int(truth.sum()),
        aurocs={name: found[name] for name in predictions},
        differences=differences,
        margin=margin,
    )


def with_figures(
    found: Verdict, aurocs: Mapping[str, Estimate], differences: Mapping[str, Estimate]
) -> Verdict:
    """Return the verdict of the same comparison from other figures of it, such as the mean of repeats."""
    deciding = [differences[name] for name in TABLE_ONLY if name in differences]
    return replace(found, word=_word(deciding, found.margin), aurocs=aurocs, differences=differences)


def verdict_by(
    measures: Mapping[str, Measure],
    strata: Ints,
    folds: Ints,
    *,
    measure: str,
    model: str = FUSED,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Verdict:
    """Compare by another measure than a binary outcome's AUROC; see :func:`verdict`.

    Args:
        measures: per model, what is compared, as a function of weights; ``model`` and a table-only one
            among them.
        strata: ``[patient]``, groups inside which patients are redrawn.
        folds: ``[patient]``.
        measure: its name in words.
        model: what is compared with the others.
        margin: the smallest gain that would count.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    others = [name for name in measures if name != model]
    gains = {f"{model} - {name}": _gain(measures[model], measures[name]) for name in others}
    found = bootstrap({**measures, **gains}, strata, folds, resamples=resamples, seed=seed)
    differences = {name: found[f"{model} - {name}"] for name in others}
    return Verdict(
        word=_word([differences[name] for name in TABLE_ONLY if name in differences], margin),
        patients=len(strata),
        events=-1,
        aurocs={name: found[name] for name in measures},
        differences=differences,
        margin=margin,
        measure=measure,
        model=model,
    )


def _gain(fused: Measure, other: Measure) -> Measure:
    def measure(weights: Float64) -> Float64:
        return np.asarray(fused(weights) - other(weights))

    return measure


def _word(gains: list[Estimate], margin: float) -> Word:
    if all(gain.lower > 0 for gain in gains):
        return "helps"
    if any(gain.upper < margin for gain in gains):
        return "does not help"
    return "cannot tell"


def _signed(gain: Estimate) -> str:
    return f"{gain.value:+.2f} ({gain.lower:+.2f} to {gain.upper:+.2f})"
