"""All kinds of fusion on the same folds of one cohort: AUROC, paired differences, cost.

Without arguments, on the synthetic cohort; for the real ones:

    python -m benchmarks.fusions pipelines/picai_cspca --root DATA/picai_psa --out runs/picai --folds 3

It is one comparison of a recipe (``comparison.fusions``): the networks of the modalities alone are the same
for every kind and fitted once, and a kind's cost is what it needs besides. Everything fitted is kept under
``--out``, so a run that was stopped goes on where it was. A claim is not made here: the table is the finding.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from medmm.arrays import Float64
from medmm.cohort.synthetic import synthesize
from medmm.evaluation.comparison import verdict
from medmm.evaluation.resampling import Estimate
from medmm.fitting.assemble import assemble
from medmm.fitting.crossval import cross_validate
from medmm.fitting.partition import deal
from medmm.fitting.rehearsal import rehearse
from medmm.modality import modality_class
from medmm.network.fusion import FUSIONS
from medmm.recipe import Recipe
from medmm.recipe.fusion import Fusion, check_modalities
from medmm.train import Plan, dealt_by, plan

REPOSITORY = Path(__file__).parents[1]
ALONE = "late_mean"
"""Needs the networks of the modalities alone and nothing else, so it is the recipe's own here."""

VARIANTS: dict[str, dict[str, Any]] = {
    "concat, auxiliary 0.3": {"kind": "concat", "auxiliary": 0.3},
    "concat, modulate 0.3": {"kind": "concat", "modulate": 0.3},
}
"""Remedies for a modality that is left behind, on the plainest fusion."""

AGAINST = "concat"
ALIKE = ("trees", "logistic")
"""Models that every kind finds the same."""


class Clock:
    """CPU seconds of every fit by its name, kept on disk: a fit that was finished earlier keeps its own."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
        self.last = time.process_time()

    def __call__(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        now = time.process_time()
        if name not in self.seconds:
            print(f"{datetime.now(UTC):%H:%M:%S} {name}", flush=True)
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.seconds))
        partial.replace(self.file)

    def of(self, labels: set[str]) -> float:
        """Return the seconds of every fit of these models, over all folds."""
        return sum(
            spent
            for name, spent in self.seconds.items()
            if ("inner" if name.split("/")[1].startswith("inner") else name.split("/")[1]) in labels
        )


def main() -> None:
    """Fit what is not fitted yet, and print the table."""
    asked = _asked()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    pipeline, root = _pipeline(asked)
    planned = plan(pipeline, root=root)
    recipe, kinds = _recipe(planned.recipe, asked)
    planned = replace(planned, recipe=recipe)
    if asked.folds:
        labels, ids = (
            dealt_by(recipe, planned.cohort, planned.patients),
            [p.subject_id for p in planned.patients],
        )
        planned = replace(planned, folds=deal(labels, ids, folds=asked.folds, seed=recipe.seed))
    clock = Clock(asked.out / "seconds.json")
    problem = assemble(
        recipe,
        planned.cohort,
        planned.patients,
        work=asked.out / "fits",
        cache=asked.out / "cache",
        on_epoch=clock,
    )
    cost = rehearse(problem, planned.folds)
    print(f"{cost.networks} networks, at most {cost.seconds / 60:.0f} minutes at the pace of this moment")
    if asked.dry_run:
        return
    clock.last = time.process_time()
    found = cross_validate(problem, planned.folds).logits
    print(_table(planned, found, problem.labels, _costs(recipe, kinds, clock)))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?", type=Path, help="without it, the synthetic CT pipeline")
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--out", type=Path, default=Path("runs/fusions"))
    parser.add_argument("--folds", type=int, help="in place of the cohort's")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--kinds", nargs="*", help="some of them")
    parser.add_argument("--patients", type=int, default=240, help="of the synthetic cohort")
    parser.add_argument("--dry-run", action="store_true", help="what it would cost")
    return parser.parse_args()


def _pipeline(asked: argparse.Namespace) -> tuple[Path, Path | None]:
    if asked.pipeline:
        return asked.pipeline, asked.root
    data = asked.out / "data"
    if not data.exists():
        synthesize(data, patients=asked.patients)
    text = (REPOSITORY / "pipelines" / "synthetic_ct" / "recipe.yaml").read_text()
    (asked.out / "recipe.yaml").write_text(text.replace("../../cohorts/synthetic", "data"))
    return asked.out, data


def _recipe(recipe: Recipe, asked: argparse.Namespace) -> tuple[Recipe, dict[str, Fusion]]:
    """Return the recipe that compares every kind that its modalities can carry, and these kinds."""
    gives = {name: modality_class(block["kind"]).gives for name, block in recipe.modalities.items()}
    blocks = {kind: {"kind": kind} for kind in sorted(FUSIONS)} | VARIANTS
    blocks["late_stack"] = {"kind": "late_stack", "inner_folds": 3}
    kinds = {}
    for kind, block in blocks.items():
        if asked.kinds and kind not in (ALONE, AGAINST, *asked.kinds):
            continue
        fusion = TypeAdapter[Fusion](Fusion).validate_python(block)
        try:
            check_modalities(fusion, gives)
            kinds[kind] = fusion
        except ValueError as error:
            print(f"left out: {error}")
    values = recipe.model_dump(exclude={"fusion"})
    values["fitting"]["epochs"] = asked.epochs or values["fitting"]["epochs"]
    values["comparison"]["fusions"] = [fusion for kind, fusion in kinds.items() if kind != ALONE]
    return Recipe.model_validate({**values, "fusion": {"kind": ALONE}}), kinds


def _costs(recipe: Recipe, kinds: Mapping[str, Fusion], clock: Clock) -> dict[str, tuple[str, float]]:
    """Return per model what it is called in the table, and its CPU seconds."""
    fits = {"late_mean": set(recipe.modalities), "late_stack": {"inner"}}
    return {
        model: (
            next(kind for kind, other in kinds.items() if other == fusion),
            clock.of(fits.get(fusion.kind, {model})),
        )
        for model, fusion in recipe.fusions.items()
    }


def _table(
    planned: Plan, found: Mapping[str, Float64], labels: Float64, costs: Mapping[str, tuple[str, float]]
) -> str:
    """Return the figures as a Markdown table, best first."""
    folds, rivals = planned.folds, {name: found[name] for name in ALIKE if name in found}
    against = next((model for model, (kind, _) in costs.items() if kind == AGAINST), "fused")
    known = np.all([np.isfinite(found[x]) for x in (*costs, *rivals)], axis=0)
    rows = []
    for model, (kind, seconds) in costs.items():
        given = {"fused": found[model], AGAINST: found[against], **rivals}
        judged = verdict(labels[known], folds[known], {name: x[known] for name, x in given.items()})
        gains = judged.differences
        told = f"{judged.aurocs['fused']} | {_signed(gains[AGAINST])} | {_signed(gains.get('logistic'))}"
        rows.append((judged.aurocs["fused"].value, f"| `{kind}` | {told} | {seconds:.0f} |"))
    lines = [
        f"{int(known.sum())} patients, {int(labels[known].sum())} events, {int(folds.max()) + 1} folds, "
        f"{planned.recipe.fitting.epochs} epochs at most; {platform.machine()}, one thread, "
        f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"| fusion | AUROC | minus `{AGAINST}` | minus logistic regression | CPU s |",
        "|---|---|---|---|---|",
        *(line for _, line in sorted(rows, reverse=True)),
    ]
    for name in (*planned.recipe.modalities, *rivals):
        have = np.isfinite(found[name])
        own = found[name][have]
        judged = verdict(labels[have], folds[have], {"fused": own, "trees": own})
        lines.append(f"| {name} alone, {int(have.sum())} patients | {judged.aurocs['fused']} | | | |")
    return "\n".join(lines)


def _signed(gain: Estimate | None) -> str:
    return "–" if gain is None else f"{gain.value:+.3f} ({gain.lower:+.3f} to {gain.upper:+.3f})"


if __name__ == "__main__":
    main()
