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
from medmm.scorer import Observed, Route, Scorer

if TYPE_CHECKING:
    from medmm.attribution.image import ImageMap
    from medmm.network.network import Network


UNSEEN = "the submodel that scores patients with these modalities does not look at it"


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
        route: what scored the patient.
    """

    logit: float
    modalities: Attribution
    fields: Mapping[str, Attribution]
    receipts: Mapping[str, float]
    route: Route


@dataclass(frozen=True, slots=True)
class OutOfFoldRecord:
    """The training patients and their out-of-fold logits ``[patient]``, NaN where a model could not score.

    Attributes:
        folds: ``[patient]``.
        calibrated: of what ships, calibrated by the other folds.
        logits: per model, uncalibrated; "routed" is calibrated by the other folds, as its networks differ.
        model: what ships: "fused", or "routed" where submodels score some of the patients.
    """

    pseudonyms: tuple[str, ...]
    folds: Ints
    calibrated: Float64
    logits: Mapping[str, Float64]
    model: str


class Explainer:
    """Explains patients of one bundle against one reference population.

    The reference is the full training population where its local file lies beside the bundle, reduced
    to medoids when it is large; else the centroids that travel with the bundle.
    """

    def __init__(self, bundle: Bundle, declarations: Mapping[str, Declaration]) -> None:
        self.bundle = bundle
        self.scorer = Scorer(bundle, declarations)
        self.first = self.scorer.components[0]
        self._references: dict[str, Reference] = {}
        self._centroids: dict[str, Reference] = {}
        self._networks: dict[str, Network] = {}

    def model_of(self, component: Component, route: Route | None = None) -> BatchedRuntime:
        """Return the networks whose logit is one component; by default the fused ones."""
        return BatchedRuntime((route or self.scorer.fused).runtime, component.direction)

    @property
    def description(self) -> Description:
        """What the bundle says of itself."""
        return self.bundle.description

    @property
    def reference(self) -> Reference:
        """The population that every share of the fused network is measured against."""
        return self.reference_of(self.scorer.fused)

    @property
    def centroids(self) -> Reference:
        """The reference of the fused network that travels with the bundle."""
        return self.centroids_of(self.scorer.fused)

    def reference_of(self, route: Route) -> Reference:
        """Return the population that the shares of one network are measured against."""
        if route.name not in self._references:
            self._references[route.name] = self._reference(route)
        return self._references[route.name]

    def centroids_of(self, route: Route) -> Reference:
        """Return the reference that travels with the bundle: means of at least 11 patients each."""
        if route.name not in self._centroids:
            folder = self.bundle.folder / (route.submodel.folder if route.submodel else "")
            arrays = load_file(folder / "reference" / "centroids.safetensors")
            self._centroids[route.name] = from_arrays(arrays, self.description.modalities, "centroids")
        return self._centroids[route.name]

    def _reference(self, route: Route) -> Reference:
        name = f"population-{route.name}" if route.name else "population"
        digest = (route.submodel or self.description).reference_digest
        file = self.bundle.folder.parent / "local" / f"{name}.safetensors"
        try:
            whole = from_arrays(load_file(file), self.description.modalities, "population")
        except (OSError, SafetensorError, BundleError, DataError):
            return self.centroids_of(route)
        if whole.digest != digest:
            return self.centroids_of(route)
        return medoids(whole, seed=self.description.seed)

    @property
    def base_error(self) -> float:
        """The error of the fused network's base; see :meth:`base_error_of`."""
        return self.base_error_of(self.scorer.fused)

    def base_error_of(self, route: Route) -> float:
        """Error of a base in log-odds: sampling error of medoids, distance of centroids, 0 otherwise.

        The distance of centroids is that of their base from the whole population's, measured in training.
        """
        reference = self.reference_of(route)
        if reference.kind == "centroids":
            bases = self._measured(route)["reference_bases"][self.first.name]
            return float(abs(bases["centroids"] - bases["population"]))
        return base_and_error(self.model_of(self.first, route), reference)[1]

    def _measured(self, route: Route) -> Mapping[str, Any]:
        """Return what was measured of one network when the bundle was made."""
        metrics = self.bundle.metrics
        found: Mapping[str, Any] = metrics["submodels"][route.name] if route.name else metrics
        return found

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
            model=record["model"],
        )

    @property
    def network(self) -> Network:
        """The torch network of the bundle: the fused one."""
        return self.network_of(self.scorer.fused)

    def network_of(self, route: Route) -> Network:
        """Return the torch network that scores by one route."""
        if route.name not in self._networks:
            from medmm.network.sealed import load_network

            self._networks[route.name] = load_network(self.bundle, route.submodel)
        return self._networks[route.name]

    def explain(
        self, observed: Observed, reference: Reference | None = None, component: Component | None = None
    ) -> Explained:
        """Take one component of a patient's logits apart, by default the first, and check the sum.

        Args:
            observed: the patient.
            reference: as the network embeds it that scores the patient (:meth:`reference_of`).
            component: of the logits.

        Raises:
            ExplanationError: if an attribution misses the scored logit by more than 1e-5.
        """
        route = self.scorer.route(observed)
        reference = reference or self.reference_of(route)
        encoded = self.encoded(observed)
        asked = component or self.first
        model = self.model_of(asked, route)
        logit = self.scorer.logit(self.scorer.encode(observed), asked)
        outcome, budget = asked.name, self._budget(route)
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
        return Explained(logit, shares, fields, receipts, route)

    def _budget(self, route: Route) -> Budget:
        return Budget(seed=self.description.seed, runs=(route.submodel or self.description).evaluations)

    def shares(self, observed: Observed, component: Component) -> Attribution:
        """Return the shares of the modalities in one component, against the centroids; checked as above."""
        route = self.scorer.route(observed)
        found = modality_attribution(
            self.model_of(component, route),
            self.encoded(observed),
            self.centroids_of(route),
            outcome=component.name,
            budget=self._budget(route),
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
        network = weighed(self.network_of(self.scorer.route(observed)), asked.direction.tolist())
        present = np.array([other in observed.inputs for other in self.description.modalities])
        found = integrated_gradients(network, observed.inputs, present, name)
        check_agreement(found, self.scorer.logit(self.scorer.encode(observed), asked))
        return found

    def gate(
        self, name: str, component: Component | None = None, route: Route | None = None
    ) -> Mapping[str, Any]:
        """Return what the sanity battery found for one image, component and network, by default the fused."""
        asked = route or self.scorer.fused
        if name not in asked.uses:
            return {"passed": False, "sentence": UNSEEN, "checks": []}
        key = f"{name} ({(component or self.first).name})" if len(self.scorer.components) > 1 else name
        found: Mapping[str, Any] = self._measured(asked).get("gate", {}).get(key, {})
        return found
