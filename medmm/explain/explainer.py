"""A bundle ready to explain: its scorer, its reference population and, for images, its torch network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from medmm.arrays import Bools, Float32, Float64, Ints
from medmm.attribution.game import (
    Budget,
    Encoded,
    Reference,
    field_attribution,
    modality_attribution,
    receipt,
)
from medmm.attribution.reference import base_and_error, from_arrays, medoids
from medmm.bundle import Bundle, Description
from medmm.errors import BundleError, DataError
from medmm.modality import Declaration
from medmm.outcome import Component
from medmm.runtime import Runtime
from medmm.sample import Attribution
from medmm.scorer import Observed, Scorer

if TYPE_CHECKING:
    from medmm.attribution.image import ImageMap
    from medmm.network.network import Network


@dataclass(frozen=True, slots=True)
class BatchedRuntime:
    """The bundle's networks over many coalitions at once; a score itself is always computed alone."""

    runtime: Runtime
    direction: Float64

    def encode(self, name: str, x: Float32, /) -> Float32:
        """Return embeddings ``[batch, width]``."""
        return self.runtime.encode(name, x, together=True)

    def fuse(self, embeddings: Mapping[str, Float32], present: Bools, /) -> Float64:
        """Return one component of the uncalibrated logits, ``[batch]``."""
        logits = self.runtime.fuse(embeddings, present, together=True)
        return np.asarray((logits if logits.ndim > 1 else logits[:, None]) @ self.direction)


@dataclass(frozen=True, slots=True)
class Explained:
    """One score taken apart.

    Attributes:
        logit: uncalibrated, as scored.
        modalities: shares of the modalities.
        fields: per table that is present, shares of its fields and of the other modalities.
        receipts: per attribution, by how much it misses the logit.
    """

    logit: float
    modalities: Attribution
    fields: Mapping[str, Attribution]
    receipts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class OutOfFoldRecord:
    """The training patients and their out-of-fold logits ``[patient]``, NaN where a model could not score.

    Attributes:
        folds: ``[patient]``.
        calibrated: of the fused model, calibrated by the other folds.
        logits: per model, uncalibrated.
    """

    pseudonyms: tuple[str, ...]
    folds: Ints
    calibrated: Float64
    logits: Mapping[str, Float64]


class Explainer:
    """Explains patients of one bundle against one reference population.

    The reference is the full training population where its local file lies beside the bundle, reduced
    to medoids when it is large; else the centroids that travel with the bundle.
    """

    def __init__(self, bundle: Bundle, declarations: Mapping[str, Declaration]) -> None:
        self.bundle = bundle
        self.scorer = Scorer(bundle, declarations)
        self.first = self.scorer.components[0]
        self.model = self.model_of(self.first)

    def model_of(self, component: Component) -> BatchedRuntime:
        """Return the networks whose logit is one component."""
        return BatchedRuntime(self.scorer.runtime, component.direction)

    @property
    def description(self) -> Description:
        """What the bundle says of itself."""
        return self.bundle.description

    @cached_property
    def reference(self) -> Reference:
        """The population that every share is measured against."""
        file = self.bundle.folder.parent / "local" / "population.safetensors"
        try:
            whole = from_arrays(load_file(file), self.description.modalities, "population")
        except (OSError, SafetensorError, BundleError, DataError):
            return self.centroids
        if whole.digest != self.description.reference_digest:
            return self.centroids
        return medoids(whole, seed=self.description.seed)

    @cached_property
    def centroids(self) -> Reference:
        """The reference that travels with the bundle: means of at least 11 patients each."""
        arrays = load_file(self.bundle.folder / "reference" / "centroids.safetensors")
        return from_arrays(arrays, self.description.modalities, "centroids")

    @cached_property
    def base_error(self) -> float:
        """Error of the base in log-odds: sampling error of medoids, distance of centroids, 0 otherwise.

        The distance of centroids is that of their base from the whole population's, measured in training.
        """
        if self.reference.kind == "centroids":
            bases = self.bundle.metrics["reference_bases"][self.first.name]
            return float(abs(bases["centroids"] - bases["population"]))
        return base_and_error(self.model, self.reference)[1]

    @cached_property
    def training(self) -> OutOfFoldRecord | None:
        """Who was trained on and how they scored out-of-fold; None away from the training site."""
        try:
            record = json.loads((self.bundle.folder.parent / "local" / "training.json").read_text())
        except (OSError, ValueError):
            return None
        as_logits = {model: np.array(values, dtype=np.float64) for model, values in record["logits"].items()}
        return OutOfFoldRecord(
            pseudonyms=tuple(record["pseudonyms"]),
            folds=np.array(record["folds"], dtype=np.int64),
            calibrated=np.array(record["calibrated"], dtype=np.float64),
            logits=as_logits,
        )

    @cached_property
    def network(self) -> Network:
        """The torch network of the bundle."""
        from medmm.network.network import build
        from medmm.network.weights import load_weights

        description = self.description
        network = build(
            self.bundle.modalities,
            description.fusion["kind"],
            description.fusion["options"],
            members=description.members if description.final_model == "fold_ensemble" else 0,
        )
        load_weights(network, self.bundle.folder / "weights.safetensors")
        return network.eval()

    def explain(
        self, observed: Observed, reference: Reference | None = None, component: Component | None = None
    ) -> Explained:
        """Take one component of a patient's logits apart, by default the first, and check the sum.

        Raises:
            ExplanationError: if an attribution misses the scored logit by more than 1e-5.
        """
        reference = reference or self.reference
        encoded = self.encoded(observed)
        asked = component or self.first
        model = self.model_of(asked)
        logit = self.scorer.logit(self.scorer.encode(observed), asked)
        outcome = asked.name
        budget = Budget(seed=self.description.seed, runs=self.description.evaluations)
        shares = modality_attribution(model, encoded, reference, outcome=outcome, budget=budget)
        fields = {
            name: field_attribution(
                model,
                encoded,
                reference,
                name,
                modality.players(),
                outcome=outcome,
                budget=budget,
            )
            for name, modality in self.bundle.modalities.items()
            if name in observed.inputs and modality.players()
        }
        receipts = {part.component: receipt(part, logit) for part in (shares, *fields.values())}
        return Explained(logit, shares, fields, receipts)

    def shares(self, observed: Observed, component: Component) -> Attribution:
        """Return the shares of the modalities in one component, against the centroids; checked as above."""
        budget = Budget(seed=self.description.seed, runs=self.description.evaluations)
        found = modality_attribution(
            self.model_of(component),
            self.encoded(observed),
            self.centroids,
            outcome=component.name,
            budget=budget,
        )
        receipt(found, self.scorer.logit(self.scorer.encode(observed), component))
        return found

    def encoded(self, observed: Observed) -> Encoded:
        """Return one patient as the games take it."""
        scored = self.scorer.encode(observed)
        return Encoded(scored.embeddings, dict(observed.rows), scored.present)

    def image_map(self, observed: Observed, name: str, component: Component | None = None) -> ImageMap:
        """Return where in one image a component of the logits comes from, by default the first.

        Raises:
            ExplanationError: if torch and the scored logit disagree by more than 1e-5.
        """
        from medmm.attribution.image import check_agreement, integrated_gradients
        from medmm.network.network import weighed

        asked = component or self.first
        network = weighed(self.network, asked.direction.tolist())
        present = np.array([other in observed.inputs for other in self.description.modalities])
        found = integrated_gradients(network, observed.inputs, present, name)
        check_agreement(found, self.scorer.logit(self.scorer.encode(observed), asked))
        return found

    def gate(self, name: str, component: Component | None = None) -> Mapping[str, Any]:
        """Return what the sanity battery found for one image and component when the bundle was made."""
        key = f"{name} ({(component or self.first).name})" if len(self.scorer.components) > 1 else name
        found: Mapping[str, Any] = self.bundle.metrics.get("gate", {}).get(key, {})
        return found
