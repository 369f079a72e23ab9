"""Pretrained encoders on disk: tensors, JSON and a manifest; nothing is pickled.

    pretrained/
      pretrained.json          objective and settings, cohort, losses, what every encoder fits
      <modality>.safetensors   an encoder's tensors, by its own names
      manifest.sha256

``pretrained.json`` holds, per modality, its contract: the settings that shape its input and its encoder, the
fields of a table in their order, and the fitted preparation (as ``preprocess.json`` of a bundle). An encoder
is a function of prepared numbers, so a run that begins with it prepares them the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from medmm.bundle import preprocess_json, verify, write_json, writing
from medmm.columns import ImageSpec
from medmm.encoders.pretrained import read_weights
from medmm.errors import BundleError, ConfigError
from medmm.fitting.checkpoint import History
from medmm.fitting.pretraining.beginning import Pretrained
from medmm.fitting.pretraining.loop import Weights
from medmm.modalities.tables import Table
from medmm.modality import Modality
from medmm.recipe import Pretraining

SCHEMA = 2
FILE = "pretrained.json"

FREE = frozenset({"augment", "dropout", "pretrained", "learning_rate_multiplier"})
"""Settings that change how an encoder is fitted, and not what it is or sees."""


def save(
    folder: Path,
    settings: Pretraining,
    modalities: Mapping[str, Modality],
    weights: Weights,
    history: History,
    *,
    patients: int,
    cohort_digest: str,
) -> str:
    """Write pretrained encoders and return the hash that names them.

    Args:
        folder: replaced whole where it is there.
        modalities: fitted, those that were pretrained.
        patients: who were pretrained on.
        cohort_digest: of their cohort, its division included.

    Raises:
        OutputError: if the place cannot be written.
    """
    named = {name: modalities[name] for name in weights}
    with writing(folder) as place:
        for name, tensors in weights.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, place / _file(name))
        described = {
            "schema_version": SCHEMA,
            "settings": settings.model_dump(mode="json"),
            "patients": patients,
            "cohort_digest": cohort_digest,
            "epochs": history.epochs,
            "contracts": {name: contract(modality) for name, modality in named.items()},
            "preprocess": preprocess_json(named),
        }
        write_json(place / FILE, described)
    return verify(folder)


def load(folder: Path, modalities: Mapping[str, Modality]) -> Pretrained:
    """Verify and read pretrained encoders for a recipe's unfitted modalities.

    Raises:
        BundleError: if the folder is damaged, altered, or of another schema.
        ConfigError: if it fits none of the modalities, or one that it is named for is another one.
    """
    sha256 = verify(folder)
    try:
        described = json.loads((folder / FILE).read_text())
        if described["schema_version"] != SCHEMA:
            raise ValueError(f"schema {described['schema_version']}, and this version reads {SCHEMA}")
        contracts, prepared = described["contracts"], described["preprocess"]
        objective, patients = described["settings"]["objective"], int(described["patients"])
        digest = str(described["cohort_digest"])
        shared = [name for name in contracts if name in modalities]
        states = {name: prepared[name]["state"] for name in shared}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder} holds no pretrained encoders that this version reads; run `medmm pretrain` anew"
        ) from error
    if not shared:
        raise ConfigError(
            f"pretrained {folder.name} holds encoders of {', '.join(contracts)}, and the recipe has none of"
            f" them, only {', '.join(modalities)}"
        )
    for name in shared:
        _check(folder, modalities[name], contracts[name])
    fitted = {name: modalities[name].restore(states[name]) for name in shared}
    weights = {name: read_weights(folder / _file(name)) for name in shared}
    return Pretrained(objective, patients, sha256, fitted, weights, digest)


def contract(modality: Modality) -> dict[str, Any]:
    """Return what a modality must share with another for the same encoder to fit both, as JSON values."""
    told = {
        "kind": modality.kind,
        "transform_version": modality.transform_version,
        "settings": _shaping(modality.settings.model_dump(mode="json")),
        "fields": _fields(modality),
    }
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _check(folder: Path, modality: Modality, then: Mapping[str, Any]) -> None:
    """Refuse a modality that is not what was pretrained, naming what differs."""
    own = getattr(modality.settings, "encoder", None)
    if getattr(own, "pretrained", None):
        raise ConfigError(
            f"{modality.name} has a `pretrained` file of its own and weights in {folder.name}; leave one out"
        )
    now = contract(modality)
    differ = _differences(*({name: rest for name, *rest in told["fields"]} for told in (then, now)))
    if not differ and then != now:
        differ = [key for key in ("kind", "transform_version") if then.get(key) != now[key]]
        differ += _changed(then.get("settings", {}), now["settings"])
    if differ:
        raise ConfigError(
            f"pretrained {folder.name} does not fit {modality.name}: {'; '.join(differ)}. Take the columns"
            " and sizes that it was pretrained with, or run `medmm pretrain` anew"
        )


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return how two lists of fields differ, by name."""
    gone, new = [n for n in then if n not in now], [n for n in now if n not in then]
    other = [n for n in then if n in now and then[n] != now[n]]
    told = [("lacks", gone), ("has besides", new), ("declares otherwise", other)]
    found = [f"it {what} {', '.join(names)}" for what, names in told if names]
    if not found and list(then) != list(now):
        moved = next(b for a, b in zip(then, now, strict=True) if a != b)
        found = [f"the fields are the same in another order, from {moved} on"]
    return found


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} is {after}, was {before}")
    return found


def _fields(modality: Modality) -> list[list[Any]]:
    """Return what there is to see, in its order: entries of a row by name, or the labels of an image."""
    if isinstance(modality.declaration, ImageSpec):
        return [["its pixels", modality.declaration.kind, *modality.declaration.labels]]
    if not isinstance(modality, Table):
        return []
    return [
        [column.key, column.field, column.kind, column.unit, *column.levels, column.log]
        for column in modality.declared
    ]


def _shaping(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _shaping(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in FREE
    }


def _file(name: str) -> str:
    return f"{name}.safetensors"
