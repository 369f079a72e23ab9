"""The drawings of every page but the waterfall: plain values in, inline SVG out.

Row pictures have no view box: their places are percentages, so they stretch with the page and their text
does not. Charts have one and keep their shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from medmm.report.svg import middle, nice_ticks, path, percent_of, picture, spaced, tag
from medmm.report.wording import count_of_100, number, of_100, whole

if TYPE_CHECKING:
    from medmm.evaluation.resampling import Estimate

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours for lines, told apart with any colour vision."""

DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")
SWARM = 46
"""Pixels that the dots of one field may take."""

MOST_DOTS = 15
"""Dots drawn of patients whose attributions coincide."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One marked place on the risk scale: a name and a risk, 0 … 1."""

    name: str
    risk: float


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal axis shared by the rows of a table.

    Attributes:
        low: left end.
        high: right end.
        reference: where a line is drawn (0 for differences, 0.5 for AUROC), or None.
    """

    low: float
    high: float
    reference: float | None = None

    def share(self, value: float) -> float:
        """Return the place of a value, 0 at the left end and 1 at the right."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self) -> tuple[tuple[str, str], ...]:
        """Return (place in percent, label) of round numbers."""
        places = [(self.share(tick), _tick(tick)) for tick in nice_ticks(self.low, self.high, 4)]
        return tuple(
            (percent_of(place), label) for place, label in spaced(places, 0.12) if 0.02 <= place <= 0.98
        )


def axis_for(estimates: Sequence[Estimate], reference: float | None = None) -> Axis:
    """Return an axis on which every estimate, every interval and the reference have room."""
    ends = [end for figure in estimates for end in (figure.value, figure.lower, figure.upper)]
    ends = [end for end in ends if math.isfinite(end)] + ([] if reference is None else [reference])
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.1
    return Axis(low - margin, high + margin, reference)


def people(probability: float, outcome: str) -> Markup:
    """Return a hundred figures of which as many are filled as patients like this one have the outcome."""
    filled = whole(probability)
    shapes = [
        tag(
            "path",
            d="M0-9a4 4 0 1 1 0 8a4 4 0 1 1 0-8zM-6.500 9v-3.500a4.500 4.500 0 0 1 4.500-4.500h4a4.500 "
            "4.500 0 0 1 4.500 4.500v3.500z",
            transform=f"translate({place % 10 * 20 + 10} {place // 10 * 22 + 11})",
            class_="on" if place < filled else "off",
        )
        for place in range(100)
    ]
    title = f"{count_of_100(probability)} of 100 figures are filled: patients with {outcome}"
    return picture(title, *shapes, viewBox="0 0 200 220", class_="people")


def risk_scale(risk: Mark, limits: tuple[float, float] | None, marks: Sequence[Mark]) -> Markup:
    """Return a scale from 0 to 100 patients with the risk, its interval, and other marks below it.

    Args:
        risk: this patient's.
        limits: interval around it, or None.
        marks: the cohort's rate, the threshold.
    """
    track = 40
    parts = [tag("rect", x=0, y=track, width="100%", height=10, rx=5, class_="track")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(tag("line", x1=percent_of(tick), x2=percent_of(tick), y1=track, y2=track + 10))
        parts.append(_text(tick, track + 25, f"{100 * tick:.0f}", "tick"))
    if limits is not None:
        low, high = limits
        width = percent_of(high - low)
        parts.append(tag("rect", x=percent_of(low), y=track, width=width, height=10, class_="span"))
    parts.append(tag("circle", cx=percent_of(risk.risk), cy=track + 5, r=9, class_="here"))
    parts.append(_text(risk.risk, track - 16, f"{risk.name}: {count_of_100(risk.risk)}", "name strong"))
    bottom = track + 34
    for mark in marks:
        x = percent_of(mark.risk)
        parts.append(tag("line", x1=x, x2=x, y1=track - 5, y2=bottom + 6, class_="mark"))
        parts.append(_text(mark.risk, bottom + 20, f"{mark.name}: {count_of_100(mark.risk)}", "name"))
        bottom += 20
    told = "; ".join(f"{mark.name} {of_100(mark.risk)}" for mark in (risk, *marks))
    return picture(f"Scale from 0 to 100 patients: {told}", *parts, class_="scale", height=bottom + 8)


def interval_row(figure: Estimate, axis: Axis, name: str) -> Markup:
    """Return a point with its interval on a shared axis."""
    parts = [*_axis_lines(axis)]
    drawn = []
    if math.isfinite(figure.lower) and math.isfinite(figure.upper):
        low, high = percent_of(axis.share(figure.lower)), percent_of(axis.share(figure.upper))
        drawn.append(tag("line", x1=low, x2=high, y1=0, y2=0, class_="reach"))
    if math.isfinite(figure.value):
        drawn.append(tag("circle", cx=percent_of(axis.share(figure.value)), cy=0, r=5, class_="point"))
    told = f"{name}: {number(figure.value)}, interval {number(figure.lower)} to {number(figure.upper)}"
    return picture(told, *parts, middle(*drawn), class_="bar")


def share_row(share: float, name: str, told: str) -> Markup:
    """Return a bar of a share 0 … 1."""
    parts = (
        tag("rect", x=0, y=-6, width="100%", height=12, rx=2, class_="track"),
        tag("rect", x=0, y=-6, width=percent_of(min(1.0, max(0.0, share))), height=12, rx=2, class_="fill"),
    )
    return picture(f"{name}: {told}", middle(*parts), class_="bar")


def swarm_row(name: str, values: Sequence[float], ranks: Sequence[float | None], limit: float) -> Markup:
    """Return one dot per patient, across by attribution, coloured by the field's value.

    Args:
        name: the field.
        values: attributions in log-odds.
        ranks: the field's value as a quantile, None where not recorded or not ordered.
        limit: log-odds at either end of the axis.
    """
    columns: dict[int, list[float | None]] = {}
    for value, rank in zip(values, ranks, strict=True):
        columns.setdefault(round((value / limit + 1) * 100), []).append(rank)
    dots = []
    for column, held in sorted(columns.items()):
        dots += [
            tag("circle", cx=f"{column / 2:.1f}%", cy=rise, r=2.6, fill=_value_colour(rank))
            for rise, rank in _stacked(held)
        ]
    told = (
        f"{name}: attributions of {len(values)} patients from {number(min(values))} to {number(max(values))}"
    )
    zero = tag("line", x1="50%", x2="50%", y1=0, y2="100%", class_="zero")
    return picture(told, zero, middle(*dots), class_="bar")


def histogram(edges: Sequence[float], without: Sequence[int], having: Sequence[int]) -> Markup:
    """Return two histograms back to back: patients with the outcome upwards, without it downwards.

    Each side has its own height, so that a rare outcome is still seen; the axis names both.
    """
    up, down = max([*having, 1]), max([*without, 1])
    left, width, ground, half = 44.0, 420.0, 130.0, 96.0
    parts: list[Markup] = []
    for place, (low, high) in enumerate(itertools.pairwise(edges)):
        x, wide = left + width * low, max(1.0, width * (high - low) - 1.5)
        tall, deep = half * having[place] / up, half * without[place] / down
        parts.append(tag("rect", x=x, y=ground - tall, width=wide, height=tall, class_="with"))
        parts.append(tag("rect", x=x, y=ground, width=wide, height=deep, class_="without"))
    parts.append(tag("line", x1=left, x2=left + width, y1=ground, y2=ground, class_="axis"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_label(left + width * tick, 246, f"{100 * tick:.0f}", "middle"))
    parts.append(_label(left + width / 2, 266, "predicted risk, of 100 patients", "middle"))
    parts.append(_label(left - 6, ground - half + 10, str(up), "end"))
    parts.append(_label(left - 6, ground + half, str(down), "end"))
    parts.append(_label(left + width, 24, "with the outcome, patients per bin", "end"))
    parts.append(_label(left + width, ground + half - 2, "without it, patients per bin", "end"))
    title = f"Distribution of predicted risks of {sum(having)} patients with and {sum(without)} without"
    return picture(title, *parts, viewBox="0 0 480 274", class_="chart")


def calibration(points: Sequence[tuple[float, float]]) -> Markup:
    """Return observed share against predicted risk, with the diagonal on which both agree."""
    plot = _Plot((0.0, 1.0), (0.0, 1.0), width=360, height=360)
    parts = plot.frame("predicted risk", "observed share")
    parts.append(path([plot.at(0, 0), plot.at(1, 1)], class_="ideal"))
    parts.append(path([plot.at(*point) for point in points], class_="line", stroke=LINES[0]))
    title = "Calibration: observed share of events by predicted risk; the dashed diagonal is perfect"
    return picture(title, *parts, viewBox=plot.box(), class_="chart square")


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], labels: tuple[str, str], *, floor: float
) -> Markup:
    """Return a chart of several lines, told apart by colour and dash, named in a legend below.

    Args:
        title: what a screen reader says.
        series: (x, y) points by name.
        labels: of the x and the y axis.
        floor: values under it are cut off (decision curves fall without bound).
    """
    xs = [x for points in series.values() for x, _ in points] or [0.0, 1.0]
    ys = [max(y, floor) for points in series.values() for _, y in points] or [0.0, 1.0]
    rows = (len(series) + 1) // 2
    plot = _Plot((min(xs), max(xs)), (min(ys), max(ys)), width=420, height=240, below=18 * rows)
    parts = plot.frame(*labels)
    for place, (name, points) in enumerate(series.items()):
        style = {"stroke": LINES[place % 6], "stroke_dasharray": DASHES[place % 6] or "none"}
        parts.append(plot.clipped(path([plot.at(*point) for point in points], class_="line", **style)))
        x, y = 48 + 215 * (place % 2), 306 + 18 * (place // 2)
        parts.append(path([(x, y - 4), (x + 26, y - 4)], class_="line", **style))
        parts.append(_label(x + 32, y, name, "start"))
    return picture(title, *parts, viewBox=plot.box(), class_="chart")


def learning(
    name: str,
    train: Sequence[float],
    tuning: Sequence[float],
    *,
    best: int,
    limits: tuple[float, float],
) -> Markup:
    """Return one model's losses by epoch, small: many of them stand side by side.

    Args:
        name: the model.
        train: mean loss per epoch on the patients it was fitted on.
        tuning: the same on the patients it was stopped on, or empty.
        best: 1-based epoch whose weights were kept, 0 when it was the last.
        limits: lowest and highest loss of the axis.
    """
    plot = _Plot((1.0, float(max(len(train), 2))), limits, width=240, height=120)
    parts = plot.frame("epoch", "loss")
    if best:
        x, bottom = plot.at(best, limits[0])
        parts.append(tag("line", x1=x, x2=x, y1=12, y2=bottom, class_="kept"))
    for place, losses in enumerate((train, tuning)):
        points = [plot.at(epoch, loss) for epoch, loss in enumerate(losses, 1) if math.isfinite(loss)]
        style = {"stroke": LINES[place], "stroke_dasharray": DASHES[place] or "none"}
        parts.append(path(points, class_="line", **style))
    told = f"{name}: loss of the last of {len(train)} epochs {number(train[-1], 3)}"
    told += f", on tuning patients {number(tuning[-1], 3)}" if tuning else ""
    return picture(told, *parts, viewBox=plot.box(), class_="chart")


@dataclass(frozen=True, slots=True)
class _Plot:
    """A framed plot area: from data to view-box coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int
    below: int = 0

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return 48 + self.width * across, 12 + self.height * (1 - up)

    def box(self) -> str:
        return f"0 0 {self.width + 60} {self.height + 54 + self.below}"

    def clipped(self, drawing: Markup) -> Markup:
        """Return a drawing of which only what lies in the plot area is seen."""
        box = f"48 10 {self.width} {self.height + 4}"
        return tag("svg", drawing, x=48, y=10, width=self.width, height=self.height + 4, viewBox=box)

    def frame(self, across: str, up: str) -> list[Markup]:
        parts: list[Markup] = []
        for tick in nice_ticks(*self.x):
            x, bottom = self.at(tick, self.y[0])
            parts.append(tag("line", x1=x, x2=x, y1=12, y2=bottom, class_="grid"))
            parts.append(_label(x, bottom + 16, _tick(tick), "middle"))
        for tick in nice_ticks(*self.y):
            left, y = self.at(self.x[0], tick)
            parts.append(tag("line", x1=left, x2=left + self.width, y1=y, y2=y, class_="grid"))
            parts.append(_label(left - 6, y + 4, _tick(tick), "end"))
        parts.append(_label(48 + self.width / 2, self.height + 46, across, "middle"))
        centre = 12 + self.height / 2
        turned = f"rotate(-90 11 {centre:.0f})"
        parts.append(tag("text", up, x=11, y=centre, text_anchor="middle", transform=turned))
        return parts


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor)


def _text(share: float, y: float, text: str, class_: str) -> Markup:
    """Return a text at a share of the width that does not run over either edge."""
    anchor = "start" if share < 0.2 else "end" if share > 0.8 else "middle"
    return tag("text", text, x=percent_of(share), y=y, text_anchor=anchor, class_=class_)


def _axis_lines(axis: Axis) -> list[Markup]:
    drawn = [tag("line", x1=x, x2=x, y1=0, y2="100%", class_="grid") for x, _ in axis.ticks()]
    if axis.reference is not None:
        x = percent_of(axis.share(axis.reference))
        drawn.append(tag("line", x1=x, x2=x, y1=0, y2="100%", class_="zero"))
    return drawn


def _stacked(held: Sequence[float | None]) -> list[tuple[float, float | None]]:
    """Return (rise from the middle, rank) of the patients in one column, evenly thinned when too many."""
    ordered = sorted(held, key=lambda rank: -1.0 if rank is None else rank)
    count = min(len(ordered), MOST_DOTS)
    chosen = [ordered[place * len(ordered) // count] for place in range(count)]
    step = min(3.6, (SWARM - 8) / max(count, 1))
    return [((place - (count - 1) / 2) * step, rank) for place, rank in enumerate(chosen)]


def _value_colour(rank: float | None) -> str:
    """Return dark blue for low, through grey, to amber for high (cividis); light grey where not recorded."""
    if rank is None:
        return "#b4bac1"
    stops = ((0.0, (0, 46, 110)), (0.5, (124, 123, 120)), (1.0, (226, 168, 12)))
    low, high = (stops[0], stops[1]) if rank < 0.5 else (stops[1], stops[2])
    share = min(1.0, max(0.0, (rank - low[0]) / 0.5))
    mixed = [round(first + share * (last - first)) for first, last in zip(low[1], high[1], strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)
