"""MODEL_CARD.md: what travels with a bundle for people to read (Mitchell et al. 2019)."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from medmm.report.wording import plain

LIMITS = (
    "- Calibrated on the folds' own models; the shipped model's calibration was not measured.",
    "- Calibrated on its own cohort; prevalence and equipment differ elsewhere. Check before use.",
    "- Attributions say what moved this model's score, not what causes the disease.",
)


def model_card(description: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return the card of a bundle as Markdown.

    Args:
        description: the values of ``bundle.json``.
        metrics: the values of ``metrics.json``.
    """
    verdict = (
        metrics["verdict"]["sentence"] if metrics["verdict"] else "The recipe compares no image with tables."
    )
    gates = [f"- {name}: {found['sentence']}" for name, found in metrics["gate"].items()] or ["- no image"]
    return "\n".join(
        [
            *_head(description),
            *_section("Out-of-fold figures (95 % intervals)", *_figures(metrics)),
            *_section("Does the image earn its place?", verdict),
            *_section("Can its heat maps be shown?", *gates),
            *_section("Limits", *LIMITS),
        ]
    )


def _head(description: Mapping[str, Any]) -> list[str]:
    return [
        f"# {description['name']}",
        "",
        _prose(description["question"]),
        "",
        f"**Intended use.** {_prose(description['intended_use'])} Research use only; not a medical device.",
        "",
        f"**Trained on** {description['trained_on']} patients of cohort `{description['cohort']}`, "
        f"{description['positives']} with the outcome ({description['prevalence']:.0%}). "
        f"Modalities: {', '.join(description['modalities'])}; fusion `{description['fusion']['kind']}`, "
        f"{description['members']} member(s).",
        "",
    ]


_INLINE = re.compile(r"[\\`*_\[\]|~]")
_AT_THE_START = re.compile(r"^([#+\-=]|\d+[.)])")


def _prose(text: str) -> str:
    """Return a person's words as one line of Markdown that is nothing but words: no markup, no HTML."""
    words = _INLINE.sub(r"\\\g<0>", html.escape(" ".join(plain(text).split()), quote=False))
    return _AT_THE_START.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", words)


def _section(heading: str, *lines: str) -> list[str]:
    return [f"## {heading}", "", *lines, ""]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {model} | {_interval(found['auroc'])} | {_interval(found['brier'])} "
        f"| {found['patients']} | {found['events']} |"
        for model, found in metrics["out_of_fold"].items()
    ]
    return ["| model | AUROC | Brier | patients | positive |", "|---|---|---|---|---|", *rows]


def _interval(triple: list[float | None]) -> str:
    if any(part is None for part in triple):
        return "–"
    value, low, high = (float(part) for part in triple if part is not None)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
