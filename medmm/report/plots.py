"""Figures for the tracking UI, as PNG; the only place that draws with matplotlib, imported when asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medmm.evaluation.calibrate import Agreement
    from medmm.evaluation.resampling import Estimate

BLUE, GREY = "#0a5e6b", "#8a949c"
"""Told apart in grey too."""


def intervals(estimates: Mapping[str, Estimate], *, title: str, reference: float) -> bytes:
    """Return a forest plot: one estimate with its 95 % interval per row, and a line at ``reference``."""
    figure, axes = _figure(height=0.45 * len(estimates) + 1.2)
    names = list(estimates)[::-1]
    for row, name in enumerate(names):
        found = estimates[name]
        axes.plot([found.lower, found.upper], [row, row], color=BLUE, linewidth=2)
        axes.plot(found.value, row, "o", color=BLUE)
        axes.annotate(str(found), (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.axvline(reference, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(estimates)), [_plain(name) for name in names], parse_math=False)
    axes.set_title(title, parse_math=False)
    return _png(figure)


def calibration(found: Agreement) -> bytes:
    """Return the smoothed calibration curve: predicted risk against the observed share of events."""
    figure, axes = _figure(height=4)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.plot(found.curve_risk, found.curve_observed, color=BLUE, linewidth=2)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted risk", ylabel="observed share", aspect="equal")
    axes.set_title("Calibration, out-of-fold")
    return _png(figure)


def learning(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Return the loss per epoch of each fit; on the patients it was stopped on where there are such."""
    figure, axes = _figure(height=4)
    for name, epochs in curves.items():
        losses = [row.get("select_loss", row["loss"]) for row in epochs]
        axes.plot(range(1, len(losses) + 1), losses, linewidth=1, label=_plain(name))
    axes.set(xlabel="epoch", ylabel="class-weighted loss")
    axes.set_title("Learning curves")
    axes.legend(fontsize=7, ncols=2, frameon=False)
    return _png(figure)


def gains(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes | None:
    """Return by how much each modality lowers the loss, per epoch; None where no network joins several.

    The mean over the fits that lasted so long. A modality that stays at zero while another climbs is not
    learned from: the fusion is out of balance.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for epochs in curves.values():
        for epoch, row in enumerate(epochs, start=1):
            for key, value in row.items():
                if key.startswith("gain."):
                    found.setdefault(key.removeprefix("gain."), {}).setdefault(epoch, []).append(value)
    if not found:
        return None
    figure, axes = _figure(height=4)
    axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
    for name, by_epoch in found.items():
        means = [sum(values) / len(values) for values in by_epoch.values()]
        axes.plot(list(by_epoch), means, linewidth=1.5, label=_plain(name))
    axes.set(xlabel="epoch", ylabel="loss without it, minus loss with it")
    axes.set_title("What each modality gives the fusion")
    axes.legend(fontsize=7, frameon=False)
    return _png(figure)


def missingness(fields: Sequence[str], patterns: Sequence[tuple[int, tuple[bool, ...]]]) -> bytes:
    """Return who lacks what: a band per pattern, as high as it is frequent, dark where a field is missing.

    Args:
        fields: what the columns are called.
        patterns: (patients, which fields they lack); a pattern without fields stands for all rare ones.
    """
    figure, axes = _figure(height=5)
    top = 0
    for count, lacking in patterns:
        if not lacking:
            axes.axhspan(top, top + count, color=GREY, alpha=0.4, linewidth=0)
        for place, missing in enumerate(lacking):
            if missing:
                axes.fill_between([place - 0.46, place + 0.46], top, top + count, color=BLUE, linewidth=0)
        top += count
        axes.axhline(top, color=GREY, linewidth=0.3)
    axes.set(xlim=(-0.6, len(fields) - 0.4), ylim=(top, 0), ylabel="patients")
    names = [_plain(name[:28]) for name in fields]
    axes.set_xticks(range(len(fields)), names, rotation=60, ha="right", fontsize=7, parse_math=False)
    axes.set_title("Missing fields, pattern by pattern")
    return _png(figure)


def _figure(*, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain(name: str) -> str:
    """Return a name that matplotlib does not read as mathematics, nor hide from a legend."""
    return name.replace("$", r"\$").removeprefix("_")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
