"""All kinds of fusion on the same folds of one cohort: AUROC, paired differences, cost.

Without arguments, on the synthetic cohort; for the real ones:

    python -m benchmarks.fusions pipelines/picai_cspca --root DATA/picai_psa --out runs/fusions/picai

Everything fitted is kept under ``--out``, so that a run that was stopped goes on where it was. The networks
of the modalities alone are the same for every kind and fitted once; a kind's cost is what it needs besides. A
claim is not made here: the table is the finding.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from medmm.cohort.synthetic import synthesize
from medmm.evaluation.comparison import verdict
from medmm.fitting.assemble import assemble
from medmm.fitting.crossval import cross_validate
from medmm.network.fusion import FUSIONS
from medmm.recipe import Recipe
from medmm.train import Plan, plan

REPOSITORY = Path(__file__).parents[1]
ALONE = "late_mean"
"""Needs the networks of the modalities alone and nothing else, so it is fitted first."""

VARIANTS = {
    "concat-auxiliary": {"kind": "concat", "auxiliary": 0.3},
    "concat-modulate": {"kind": "concat", "modulate": 0.3},
}
"""Remedies for a modality that is left behind, on the plainest fusion."""

AGAINST = "concat"
ALIKE = ("trees", "logistic")
"""Models that every kind finds the same."""


def main() -> None:
    """Fit what is not fitted yet, and print the table."""
    asked = _asked()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    pipeline, root = _pipeline(asked)
    planned = plan(pipeline, root=root)
    kinds = [ALONE, *(kind for kind in asked.kinds or sorted([*FUSIONS, *VARIANTS]) if kind != ALONE)]
    found = {}
    for kind in kinds:
        file = asked.out / f"{kind}.json"
        if not file.exists():
            _fit(planned, kind, asked, file)
        found[kind] = json.loads(file.read_text())
        print(f"{kind:<18} {found[kind]['seconds']:7.0f} CPU-s", flush=True)
    if AGAINST in found:
        print(_table(planned, found))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?", type=Path, help="without it, the synthetic CT pipeline")
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--out", type=Path, default=Path("runs/fusions"))
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--patience", type=int, help="in place of the recipe's")
    parser.add_argument("--kinds", nargs="*", help="some of them, to share the work among processes")
    parser.add_argument("--patients", type=int, default=240, help="of the synthetic cohort")
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


def _fit(planned: Plan, kind: str, asked: argparse.Namespace, file: Path) -> None:
    """Fit one kind on every fold and keep its out-of-fold logits and its cost."""
    recipe = _recipe(planned.recipe, kind, asked)
    work = asked.out / "fits" / kind
    if kind != ALONE and not work.exists():
        _take_over(asked.out / "fits" / ALONE, work)
    clock = asked.out / f"{kind}.seconds"  # spent before the run was stopped, if it was
    earlier = float(clock.read_text()) if clock.exists() else 0.0

    def spent(*_: object) -> None:
        clock.write_text(f"{earlier + time.process_time() - started:.1f}")

    cache = asked.out / "cache"
    problem = assemble(recipe, planned.cohort, planned.patients, work=work, cache=cache, on_epoch=spent)
    started = time.process_time()
    out_of_fold = cross_validate(problem, planned.folds)
    seconds = earlier + time.process_time() - started
    logits = {name: values.tolist() for name, values in out_of_fold.logits.items()}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"seconds": seconds, "logits": logits, "labels": problem.labels.tolist()}))
    partial.replace(file)


def _take_over(alone: Path, work: Path) -> None:
    """Copy the finished fits of the modalities alone, which have the same name, seed and patients."""
    for done in alone.rglob("done.safetensors"):
        place = work / done.parent.relative_to(alone)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(done, place / done.name)


def _recipe(recipe: Recipe, kind: str, asked: argparse.Namespace) -> Recipe:
    values = recipe.model_dump(exclude={"fusion"})
    fusion: dict[str, object] = dict(VARIANTS.get(kind, {"kind": kind}))
    if kind == recipe.fusion.kind:
        fusion = recipe.fusion.model_dump()
    elif kind == "late_stack":
        fusion["inner_folds"] = 3
    for key in ("epochs", "patience"):
        if getattr(asked, key):
            values["fitting"][key] = getattr(asked, key)
    return Recipe.model_validate({**values, "fusion": fusion})


def _table(planned: Plan, found: Mapping[str, Mapping[str, object]]) -> str:
    """Return the figures as a Markdown table, best first."""
    labels, folds = np.array(found[ALONE]["labels"]), planned.folds
    rivals = {name: np.array(found[ALONE]["logits"][name]) for name in ALIKE}  # type: ignore[index]
    modalities = [name for name in found[ALONE]["logits"] if name in planned.recipe.modalities]  # type: ignore[attr-defined]
    kinds = {kind: np.array(row["logits"]["fused"]) for kind, row in found.items()}  # type: ignore[index]
    known = np.all([np.isfinite(x) for x in [*kinds.values(), *rivals.values()]], axis=0)
    rows = []
    for kind, logits in kinds.items():
        others = {"concat": kinds[AGAINST], **rivals}
        given = {name: x[known] for name, x in {"fused": logits, **others}.items()}
        judged = verdict(labels[known], folds[known], given)
        differences = judged.differences
        rows.append(
            (
                judged.aurocs["fused"].value,
                f"| `{kind}` | {judged.aurocs['fused']} | {_signed(differences['concat'])} "
                f"| {_signed(differences['logistic'])} | {found[kind]['seconds']:.0f} |",
            )
        )
    lines = [
        f"{int(known.sum())} patients, {int(labels[known].sum())} events, {int(folds.max()) + 1} folds; "
        f"{platform.machine()}, one thread, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}",
        "",
        "| fusion | AUROC | minus `concat` | minus logistic regression | CPU s |",
        "|---|---|---|---|---|",
        *(line for _, line in sorted(rows, reverse=True)),
    ]
    for name in (*modalities, *ALIKE):
        alone = np.array(found[ALONE]["logits"][name])  # type: ignore[index]
        have = np.isfinite(alone)
        judged = verdict(labels[have], folds[have], {"fused": alone[have], "trees": alone[have]})
        lines.append(f"| {name} alone, {int(have.sum())} patients | {judged.aurocs['fused']} | | | |")
    return "\n".join(lines)


def _signed(gain: object) -> str:
    return "–" if gain is None else f"{gain.value:+.3f} ({gain.lower:+.3f} to {gain.upper:+.3f})"  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
