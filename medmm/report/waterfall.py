"""An attribution as a waterfall: from the reference population's average, player by player, to the score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from markupsafe import Markup

from medmm.report.svg import middle, nice_ticks, percent_of, picture, spaced, tag
from medmm.report.wording import adding_up, number, odds_ratio, of_100, signed
from medmm.sample import Attribution

MOST_ROWS = 12
"""Players drawn one by one; the smaller ones share a row and stand in the table of figures."""

LEAST_SPAN = 1.2
"""Log-odds that the axis spans at least, so that negligible bars look negligible."""

RowKind = Literal["start", "player", "rest", "whole", "end"]
_RISKS = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    *(tenth / 10 for tenth in range(1, 10)),
    0.95,
    0.98,
    0.99,
    0.999,
)


@dataclass(frozen=True, slots=True)
class PlayerText:
    """How one player of an attribution is printed.

    Attributes:
        label: what a reader sees.
        value: raw value, "not recorded", or empty for a modality.
        unit: UCUM unit of value and reference, or empty.
        reference: reference range as printed ("0 – 4"), or empty.
        absent: the modality is absent: its bar is the effect of absence.
    """

    label: str
    value: str = ""
    unit: str = ""
    reference: str = ""
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Waterfall:
    """An attribution and how to print its players.

    Attributes:
        attribution: in log-odds of the logit before calibration, exactly as computed; the page draws it on
            the calibrated scale and prints it as it is in the receipt.
        players: text per name in the attribution; a name without text is printed as it is.
        title: heading ("PSA and age"); empty for the modality level.
    """

    attribution: Attribution
    players: Mapping[str, PlayerText] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """The calibrated log-odds axis: ``slope * logit + intercept``; not affine means the logit itself.

    Attributes:
        slope: of the calibration, 1 when it is not affine.
        intercept: of the calibration, 0 when it is not affine.
        affine: whether a place on the axis is a risk.
        axis: what the axis measures where it is no risk; empty for log-odds before calibration.
    """

    slope: float = 1.0
    intercept: float = 0.0
    affine: bool = True
    axis: str = ""

    def of(self, logit: float) -> float:
        """Return the place of an uncalibrated logit on the axis, in log-odds."""
        return self.slope * logit + self.intercept

    def printed(self, place: float) -> str:
        """Return a place as a risk, or as log-odds where the calibration is not affine."""
        if self.affine:
            return of_100(_risk(place))
        return f"{number(place)} {self.axis}" if self.axis else f"log-odds {number(place)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a drawn waterfall; numbers are on the calibrated scale.

    Attributes:
        kind: "start", "player", "rest" (the smaller players together), "whole" (a modality among the fields
            of another) or "end".
        text: label, value, reference.
        printed: log-odds as printed; the printed ones add up.
        shown: the same as a number.
        bar: the picture.
        name: the player's name in the attribution; empty for start, rest and end.
        odds: the same as a factor on the odds, empty for start and end.
        direction: "raises", "lowers" or "leaves".
        error: standard error as printed, empty where the value is exact.
    """

    kind: RowKind
    text: PlayerText
    printed: str
    shown: float
    bar: Markup
    name: str = ""
    odds: str = ""
    direction: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A waterfall ready for the page.

    Attributes:
        title: see :class:`Waterfall`.
        rows: start, players by size, end.
        ticks: (place in percent, label) of the axis.
        affine: whether the axis is a risk.
        exact: unrounded rows of the receipt: label, log-odds, calibrated log-odds, standard error.
        attribution: what was drawn.
        axis: see :class:`Scale`.
    """

    title: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[str, str], ...]
    affine: bool
    exact: tuple[tuple[str, str, str, str], ...]
    attribution: Attribution
    axis: str = ""

    def printed(self) -> dict[str, float]:
        """Return the log-odds as printed, by player."""
        return {row.name: row.shown for row in self.rows if row.name}


@dataclass(frozen=True, slots=True)
class _Bar:
    name: str
    text: PlayerText
    value: float
    error: float
    kind: RowKind = "player"


@dataclass(frozen=True, slots=True)
class _Frame:
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, place: float) -> float:
        return (place - self.low) / (self.high - self.low)

    def x(self, place: float) -> str:
        return percent_of(self.share(place))


def draw(
    waterfall: Waterfall, scale: Scale, *, start: str, end: str, modalities: Mapping[str, float] | None = None
) -> Drawing:
    """Return the waterfall drawn on the calibrated scale, largest players first.

    Args:
        waterfall: what is drawn.
        scale: from logit to axis.
        start: label of the first row.
        end: label of the last row.
        modalities: for the fields of one table: what is printed for each modality, so that the others
            read the same and the fields as printed add up to their table.
    """
    attribution, settled = waterfall.attribution, modalities or {}
    bars = _ordered(_bars(waterfall, scale, frozenset(settled)))
    base = scale.of(attribution.base)
    places = [base]
    for bar in bars:
        places.append(places[-1] + bar.value)
    frame = _frame(places, scale)
    printed = _printed(bars, round(places[-1], 2) - round(base, 2), settled)
    rows = [_end_row("start", start, base, scale, frame)]
    rows += [
        _player_row(bar, shown, (places[place], places[place + 1]), frame)
        for place, (bar, shown) in enumerate(zip(bars, printed, strict=True))
    ]
    rows.append(_end_row("end", end, places[-1], scale, frame))
    ticks = tuple((percent_of(place), label) for place, label in frame.ticks)
    return Drawing(
        waterfall.title, tuple(rows), ticks, scale.affine, _exact(waterfall, scale), attribution, scale.axis
    )


def _risk(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))


def _bars(waterfall: Waterfall, scale: Scale, whole: frozenset[str]) -> list[_Bar]:
    attribution, players = waterfall.attribution, waterfall.players
    return [
        _Bar(
            name=name,
            text=players.get(name, PlayerText(name)),
            value=scale.slope * value,
            error=abs(scale.slope) * error,
            kind="whole" if name in whole else "player",
        )
        for name, value, error in zip(attribution.names, attribution.values, attribution.errors, strict=True)
    ]


def _ordered(bars: list[_Bar]) -> list[_Bar]:
    """Return players by size, the smallest of many together, then modalities as a whole."""
    players = sorted((bar for bar in bars if bar.kind == "player"), key=lambda bar: -abs(bar.value))
    whole = [bar for bar in bars if bar.kind == "whole"]
    if len(players) <= MOST_ROWS:
        return players + whole
    rest = players[MOST_ROWS - 1 :]
    text = PlayerText(f"{len(rest)} smaller ones together")
    together = _Bar("", text, sum(bar.value for bar in rest), 0.0, "rest")
    return [*players[: MOST_ROWS - 1], together, *whole]


def _printed(bars: Sequence[_Bar], total: float, settled: Mapping[str, float]) -> list[float]:
    held = {bar.name: settled[bar.name] for bar in bars if bar.kind == "whole"}
    free = [bar.value for bar in bars if bar.kind != "whole"]
    rounded = iter(adding_up(free, total - sum(held.values())))
    return [held[bar.name] if bar.kind == "whole" else next(rounded) for bar in bars]


def _frame(places: Sequence[float], scale: Scale) -> _Frame:
    low, high = min(places), max(places)
    widen = max(0.0, LEAST_SPAN - (high - low)) / 2
    low, high = low - widen, high + widen
    margin = 0.06 * (high - low)
    frame = _Frame(low - margin, high + margin, ())
    if scale.affine:
        ticks = [(frame.share(math.log(risk / (1 - risk))), f"{100 * risk:g}") for risk in _RISKS]
    else:
        ticks = [(frame.share(place), number(place, 1)) for place in nice_ticks(frame.low, frame.high)]
    return replace(frame, ticks=spaced([tick for tick in ticks if 0.03 <= tick[0] <= 0.97], 0.09))


def _grid(frame: _Frame) -> list[Markup]:
    return [
        tag("line", x1=percent_of(place), x2=percent_of(place), y1=0, y2="100%", class_="grid")
        for place, _ in frame.ticks
    ]


def _link(frame: _Frame, place: float, top: str, bottom: str) -> Markup:
    """Return the line by which a row hands its end to the next."""
    x = frame.x(place)
    return tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="link")


def _end_row(kind: Literal["start", "end"], label: str, place: float, scale: Scale, frame: _Frame) -> Row:
    link = ("50%", "100%") if kind == "start" else ("0%", "50%")
    mark = middle(tag("circle", cx=frame.x(place), cy=0, r=6, class_=f"mark {kind}"))
    title = f"{label}: {scale.printed(place)}"
    drawn = picture(title, *_grid(frame), _link(frame, place, *link), mark, class_="bar")
    return Row(kind, PlayerText(label, scale.printed(place)), number(place), round(place, 2), drawn)


def _player_row(bar: _Bar, shown: float, ends: tuple[float, float], frame: _Frame) -> Row:
    direction = "raises" if shown > 0 else "lowers" if shown < 0 else "leaves"
    left, right = sorted(ends)
    width = max(frame.share(right) - frame.share(left), 0.003)
    box = tag(
        "rect", x=frame.x(left), y=-8, width=percent_of(width), height=16, rx=2, class_=f"box {direction}"
    )
    links = (_link(frame, ends[0], "0%", "50%"), _link(frame, ends[1], "50%", "100%"))
    whisker = [_whisker(frame, ends[1], bar.error)] if bar.error >= 0.005 else []
    parts = (*_grid(frame), *links, middle(box, *whisker))
    title = f"{bar.text.label}: {signed(shown)} log-odds"
    return Row(
        kind=bar.kind,
        name=bar.name,
        text=bar.text,
        printed=signed(shown),
        shown=shown,
        bar=picture(title, *parts, class_="bar"),
        odds=odds_ratio(shown),
        direction=direction,
        error=f"± {bar.error:.2f}" if bar.error >= 0.005 else "",
    )


def _whisker(frame: _Frame, end: float, error: float) -> Markup:
    left, right = max(end - error, frame.low), min(end + error, frame.high)
    line = tag("line", x1=frame.x(left), x2=frame.x(right), y1=0, y2=0)
    caps = [tag("line", x1=frame.x(at), x2=frame.x(at), y1=-4, y2=4) for at in (left, right)]
    return tag("g", line, *caps, class_="whisker")


def _exact(waterfall: Waterfall, scale: Scale) -> tuple[tuple[str, str, str, str], ...]:
    attribution = waterfall.attribution
    label = {name: waterfall.players.get(name, PlayerText(name)).label for name in attribution.names}
    rows = [
        (label[name], number(value, 6), number(scale.slope * value, 6), number(error, 6))
        for name, value, error in zip(attribution.names, attribution.values, attribution.errors, strict=True)
    ]
    base = ("base: mean of the reference", number(attribution.base, 6), number(scale.of(attribution.base), 6))
    total = ("sum: the logit", number(attribution.logit, 6), number(scale.of(attribution.logit), 6))
    return ((*base, ""), *rows, (*total, ""))
