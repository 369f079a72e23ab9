"""The torch networks of a bundle: they draw image gradients, with the weights that the graphs have."""

from __future__ import annotations

from medmm.bundle import Bundle, Submodel
from medmm.network.network import Network, build, widened
from medmm.network.weights import load_weights

WEIGHTS = "weights.safetensors"


def load_network(bundle: Bundle, submodel: Submodel | None = None) -> Network:
    """Return the fused network of a bundle, or one of its submodels over the same modalities.

    Raises:
        BundleError: if the weights are missing, or of another network.
    """
    description = bundle.description
    members = description.members if description.final_model == "fold_ensemble" else 0
    fusion = description.fusion
    fused = build(bundle.modalities, fusion["kind"], fusion["options"], members=members)
    if submodel is None:
        load_weights(fused, bundle.folder / WEIGHTS)
        return fused.eval()
    used = {name: bundle.modalities[name] for name in submodel.uses}
    part = build(used, submodel.fusion["kind"], submodel.fusion["options"], members=members)
    network = widened(part, fused)
    elsewhere = {
        f"encoders.{name}.": bundle.folder / folder / WEIGHTS
        for name, folder in submodel.encoders.items()
        if folder != submodel.folder
    }
    load_weights(network, bundle.folder / submodel.folder / WEIGHTS, also=elsewhere)
    return network.eval()
