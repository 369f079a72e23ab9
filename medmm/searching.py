"""From a recipe's search to what does it: tracked trial by trial, its cost told beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medmm import tracking
from medmm.errors import ConfigError
from medmm.fitting.candidates import Problem
from medmm.fitting.search import Searcher, Trial
from medmm.fitting.variants import Variants
from medmm.recipe import Recipe
from medmm.telling import Plan

Progress = Callable[[str, int, int], None]


def searcher(
    planned: Plan, problem: Problem, run: Path, tracked: tracking.Run, at: str | None, told: Progress | None
) -> Searcher | None:
    """Return what searches the settings that the recipe asks for; None where it asks for none."""
    if planned.recipe.search is None:
        return None
    sources = {name: [p.sources[name] for p in planned.patients] for name in planned.recipe.modalities}
    variants = Variants(problem, planned.cohort.declarations, sources, run.parent / "cache")

    def child(trial: Trial) -> None:
        name = f"{trial.study} trial {trial.number}"
        tracked.child(name, trial.settings, trial.steps, trial.state, trial.reason)

    return Searcher(variants, run / "search", at, child, told, _studies(planned))


def check_processes(recipe: Recipe, processes: int) -> None:
    """Refuse a search by several processes that share every batch, before anything is read.

    Raises:
        ConfigError: saying what may be done side by side.
    """
    if recipe.search is not None and processes > 1:
        raise ConfigError(
            f"recipe {recipe.name} has a `search`, which runs in one process: start `medmm train` without"
            " torchrun or `medmm launch`; with --cluster it tries on many machines"
        )


def cost(planned: Plan) -> list[str]:
    """Return a line about what a search adds to a run; none where nothing is searched."""
    search, studies = planned.recipe.search, _studies(planned)
    if search is None:
        return []
    return [
        f"search   {studies} studies of {search.trials} trials on {search.folds} inner folds:"
        f" {studies * search.trials * search.folds} times the fused model more, at most"
    ]


def _studies(planned: Plan) -> int:
    """Return how many studies there are: one per outer fold of each repeat, and one of everybody."""
    return (int(planned.folds.max()) + 1) * (1 + len(planned.more)) + 1
