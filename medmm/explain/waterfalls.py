"""Attributions with the labels and values that a reader sees, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping

from medmm.columns import FieldSpec, ImageSpec, ResultSpec, Status, Value
from medmm.explain.courses import results_player
from medmm.explain.explainer import Explained, Explainer
from medmm.modality import Modality
from medmm.report.waterfall import PlayerText, Waterfall
from medmm.report.wording import with_unit
from medmm.sample import TableRow, TimedSeries
from medmm.scorer import Observed


def modality_waterfall(explainer: Explainer, explained: Explained, observed: Observed) -> Waterfall:
    """Return the shares of the modalities, with their labels."""
    players = {
        name: PlayerText(label=block_label(name, modality), absent=name in observed.absent)
        for name, modality in explainer.bundle.modalities.items()
    }
    return Waterfall(explained.modalities, players)


def field_waterfalls(explainer: Explainer, explained: Explained, observed: Observed) -> tuple[Waterfall, ...]:
    """Return the shares of the fields of each table, with their values."""
    drawn = []
    for name, attribution in explained.fields.items():
        row = observed.patient.sources[name]
        assert isinstance(row, Mapping | TimedSeries)
        modality = explainer.bundle.modalities[name]
        players = {player.name: _player(player.name, modality, row) for player in modality.players()}
        players |= {
            other: PlayerText(
                label=block_label(other, explainer.bundle.modalities[other]), absent=other in observed.absent
            )
            for other in explainer.bundle.modalities
            if other != name
        }
        drawn.append(Waterfall(attribution, players, title=block_label(name, modality)))
    return tuple(drawn)


def _player(name: str, modality: Modality, row: TableRow | TimedSeries) -> PlayerText:
    spec = spec_of(modality.declaration, name)
    if isinstance(row, TimedSeries):
        assert isinstance(spec, ResultSpec)
        return results_player(row, name, spec)
    entries = {key: value for key, value in row.items() if key.split(":", 1)[0] == name}
    said = [
        f"{key.partition(':')[2]} {shown(value)}".strip()
        for key, value in entries.items()
        if value.status is Status.KNOWN
    ]
    reference = f"{spec.reference[0]:g} – {spec.reference[1]:g}" if spec.reference else ""
    return PlayerText(
        label=label_of(modality.declaration, name),
        value=with_unit("; ".join(said), spec.unit or "") if said else "not recorded",
        reference=reference,
    )


def block_label(name: str, modality: Modality) -> str:
    """Return what a reader sees of a modality."""
    declaration = modality.declaration
    return (declaration.label or name) if isinstance(declaration, ImageSpec) else name.capitalize()


def spec_of(declaration: object, key: str) -> FieldSpec | ResultSpec:
    """Return the declaration of one entry of a table row ("psa", or "psa:max" of several summaries)."""
    assert isinstance(declaration, Mapping)
    spec: FieldSpec | ResultSpec = declaration[key.split(":", 1)[0]]
    return spec


def label_of(declaration: object, key: str) -> str:
    """Return what a reader sees of one entry of a table row."""
    name, _, summary = key.partition(":")
    label = spec_of(declaration, key).label or name.replace("_", " ")
    return f"{label}, {summary}" if summary else label


def shown(value: Value) -> str:
    """Return a value as the model took it: a number in the declared unit, with its comparator."""
    if isinstance(value.value, float | int):
        return f"{value.comparator}{value.value:g}"
    return str(value.value)
