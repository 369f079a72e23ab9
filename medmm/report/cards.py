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
    several = metrics.get("outcomes") or {}
    verdicts = [
        f"{name}: {told['verdict']['sentence']}" if len(several) > 1 else told["verdict"]["sentence"]
        for name, told in (several or {"": metrics}).items()
        if told["verdict"]
    ] or ["The recipe compares no image with tables."]
    if shipped := metrics.get("verdict_of_shipped"):
        verdicts += ["", shipped["sentence"]]
    gates = [f"- {name}: {found['sentence']}" for name, found in metrics["gate"].items()] or ["- no image"]
    return "\n".join(
        [
            *_head(description),
            *_section("Out-of-fold figures (95 % intervals)", *_all_figures(metrics)),
            *_section("Does the image earn its place?", *verdicts),
            *_section("How it was chosen", *_chosen(description, metrics)),
            *_section("Can its heat maps be shown?", *gates),
            *_searched(metrics.get("search") or {}),
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
        f"{_having(description)}"
        f"Modalities: {', '.join(description['modalities'])}; fusion `{description['fusion']['kind']}`, "
        f"{description['members']} member(s).",
        "",
    ]


def _searched(studies: Mapping[str, Any]) -> list[str]:
    """Return how the settings were found; nothing where they were not searched."""
    if not studies:
        return []
    final = studies["refit"]
    chosen = ", ".join(f"{path} = {value}" for path, value in final["settings"].items())
    tried = sum(final[state] for state in ("finished", "pruned", "failed"))
    return _section(
        "How were its settings found?",
        f"By {tried} trials on inner folds of all training patients: {_prose(chosen)}. The out-of-fold"
        " figures above are of models whose settings were searched inside each fold's training patients.",
    )


def _having(description: Mapping[str, Any]) -> str:
    """Return how many had the outcome, or which outcomes there are."""
    tasks = description.get("tasks", ())
    if len(tasks) == 1 and tasks[0]["kind"] == "binary":
        return f"{description['positives']} with the outcome ({description['prevalence']:.0%}). "
    told = []
    for task in tasks:
        shares = description["rates"].get(task["name"], {})
        parts = ", ".join(f"{_prose(name)} {share:.0%}" for name, share in shares.items())
        told.append(f"{task['name']} ({task['kind']}{': ' + parts if parts else ''})")
    return f"for {'; '.join(told)}. "


_INLINE = re.compile(r"[\\`*_\[\]|~]")
_AT_THE_START = re.compile(r"^([#+\-=]|\d+[.)])")


def _prose(text: str) -> str:
    """Return a person's words as one line of Markdown that is nothing but words: no markup, no HTML."""
    words = _INLINE.sub(r"\\\g<0>", html.escape(" ".join(plain(text).split()), quote=False))
    return _AT_THE_START.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", words)


def _section(heading: str, *lines: str) -> list[str]:
    return [f"## {heading}", "", *lines, ""]


def _all_figures(metrics: Mapping[str, Any]) -> list[str]:
    """Return a table per outcome."""
    several = metrics.get("outcomes") or {"": metrics}
    lines: list[str] = []
    for name, told in several.items():
        lines += [f"### {name}", ""] if len(several) > 1 else []
        binary = all(
            "auprc" in found or ("brier" in found and "auroc" in found)
            for found in told["out_of_fold"].values()
        )
        lines += _figures(told) if binary and not told.get("confusion") else _kind_figures(told)
        lines += [""] if len(several) > 1 else []
    return lines


def _kind_figures(told: Mapping[str, Any]) -> list[str]:
    """Return every measure of the fused model and its rivals for an outcome of another kind."""
    measures = [name for name in told["out_of_fold"]["fused"] if name not in ("patients", "events")]
    head = "| model | " + " | ".join(measures) + " | patients |"
    rows = [
        f"| {model} | "
        + " | ".join(_interval(found[name]) if name in found else "–" for name in measures)
        + f" | {found['patients']} |"
        for model, found in told["out_of_fold"].items()
    ]
    return [head, "|" + "---|" * (len(measures) + 2), *rows]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {model} | {_interval(found['auroc'])} | {_interval(found['brier'])} "
        f"| {found['patients']} | {found['events']} |"
        for model, found in metrics["out_of_fold"].items()
    ]
    return ["| model | AUROC | Brier | patients | positive |", "|---|---|---|---|---|", *rows]


def _chosen(description: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return who has what and how good the fused model is there, the routing and the promotion."""
    if "availability" not in metrics:
        return ["Not judged by availability: that is of runs with one binary outcome."]
    routing, promotion = metrics.get("routing"), metrics.get("promotion")
    scored_by = {row["pattern"]: row["why"] for row in routing["patterns"]} if routing else {}
    rows = [
        f"| {cell['pattern']} | {cell['patients'] or 'fewer than 11'} "
        f"| {_interval(cell['auroc'] or [None])} | {scored_by.get(cell['pattern'], 'fused')} |"
        for cell in metrics["availability"]
        if cell["model"] == "fused"
    ]
    sub = ", ".join(" + ".join(one["pattern"]) for one in description.get("submodels", ()))
    return [
        "| patients with | patients | AUROC of fused | scored by |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Routing: {'submodels for ' + sub if sub else 'nobody is scored by a submodel'}."
        if routing
        else "Routing: none; everybody is scored by the fused network.",
        "",
        f"Promotion: {'champion' if promotion['passed'] else 'candidate only'}, by {promotion['model']}; "
        + "; ".join(f"{c['rule']} asks {c['asked']}, found {c['found']}" for c in promotion["checks"])
        + "."
        if promotion
        else "Promotion: the recipe has no rule; candidate only.",
    ]


def _interval(triple: list[float | None]) -> str:
    if any(part is None for part in triple):
        return "–"
    value, low, high = (float(part) for part in triple if part is not None)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
