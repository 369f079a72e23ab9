"""Search for settings inside the training patients of each outer fold: the one file that imports optuna.

A study is a journal of JSON lines in the run's folder. Every trial is drawn with a seed of its own, from
what the finished ones found, so that a search that was killed goes on as if it had not been: what was
under way is drawn again and comes out the same, and its finished fits are taken up (Bergstra et al. 2011,
tree-structured Parzen estimator; Akiba et al. 2019, https://doi.org/10.1145/3292500.3330701).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medmm.arrays import Float64, Ints
from medmm.cluster import mapped
from medmm.errors import ConfigError, FittingError
from medmm.evaluation.discrimination import auprc, auroc, log_loss
from medmm.evaluation.kinds import ranking
from medmm.fitting.candidates import Problem, fit_split
from medmm.fitting.partition import deal
from medmm.fitting.variants import Variants
from medmm.outcome import Task, columns, part, read, scored
from medmm.recipe.search import METRICS, Axis, Range, Search

State = Literal["finished", "pruned", "failed"]
FINAL = "refit"
"""The study of all training patients, by which the final model is fitted."""

LOST = "every process that tried it died: out of memory, or a fault of a library"
REASON = "reason"
SHOWN = 5
"""Trials that a terminal is told."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial as it ended.

    Attributes:
        study: which training patients it was of: a fold's ("fold0"), or everybody ("refit").
        number: in its study, from 0.
        steps: mean of the metric after each inner fold; larger is better.
        value: the last of them; None of a trial that was pruned or failed.
        reason: why it failed, else "".
    """

    study: str
    number: int
    settings: Mapping[str, Any]
    steps: tuple[float, ...]
    state: State
    reason: str = ""

    @property
    def value(self) -> float | None:
        """Mean over all inner folds."""
        return self.steps[-1] if self.state == "finished" else None


@dataclass(frozen=True, slots=True)
class Found:
    """What a study found: the settings of its best trial, and every trial."""

    best: Trial
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        states = [trial.state for trial in self.trials]
        counts = {state: states.count(state) for state in ("finished", "pruned", "failed")}
        return {"settings": dict(self.best.settings), "value": self.best.value, **counts}

    def lines(self) -> list[str]:
        """Return the best trials and the counts, as lines for a terminal."""
        told = self.to_json()
        ranked = sorted((t for t in self.trials if t.value is not None), key=lambda t: -(t.value or 0.0))
        return [
            f"trials   {len(self.trials)} = {told['finished']} finished + {told['pruned']} pruned"
            f" + {told['failed']} failed",
            *(
                f"{trial.value:8.3f} "
                + ", ".join(f"{path} = {value}" for path, value in trial.settings.items())
                for trial in ranked[:SHOWN]
            ),
            "these figures chose the settings and flatter them; `medmm train` judges the search as a whole",
        ]


@dataclass(frozen=True, slots=True)
class _Measured:
    value: float
    reason: str = ""


@dataclass
class _Trying:
    """One trial on one inner fold, here or in a worker."""

    variants: Variants
    train: Ints
    folds: Ints
    name: str
    work: Path
    metric: str | None
    threads: int

    def place(self, chosen: Mapping[str, Any], number: int) -> Path:
        """Return the folder of one trial's fits, by which a search that was killed finds them again."""
        digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()
        return self.work / f"{number}-{digest[:16]}"

    def __call__(self, item: tuple[Mapping[str, Any], int, int]) -> _Measured:
        chosen, number, fold = item
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)  # a worker has one by default, and sums in another order
        try:
            problem = replace(self.variants.of(chosen), work=self.place(chosen, number))
            inner, test = self.train[self.folds != fold], self.train[self.folds == fold]
            name = f"{self.name}/search{fold}"
            logits = fit_split(problem, inner, test, name, only=["fused"]).logits["fused"]
        except (ConfigError, FittingError) as error:
            return _Measured(math.nan, str(error))
        if not scored(logits).any():
            return _Measured(math.nan, "the network gives no finite score")
        value = _value(problem, self.metric, test, logits)
        return _Measured(value, "" if math.isfinite(value) else f"inner fold {fold + 1} has one class only")


@dataclass
class Searcher:
    """Searches settings among given training patients; each study is done once and then read.

    Attributes:
        variants: the problem under any settings.
        journals: folder of the studies.
        address: of the cluster that tries; None for this process.
        on_trial: called with every trial as it ends.
        progress: called with (stage, trials ended, trials in all studies).
        studies: how many there will be, for the progress.
    """

    variants: Variants
    journals: Path
    address: str | None = None
    on_trial: Callable[[Trial], None] | None = None
    progress: Callable[[str, int, int], None] | None = None
    studies: int = 1
    found: dict[str, Found] = field(default_factory=dict)

    def __call__(self, train: Ints, name: str) -> Problem:
        """Return the problem under the settings that are best among these training patients.

        Args:
            train: rows of the patients; no other patient is looked at.
            name: a path-safe name of the split.

        Raises:
            FittingError: if no trial could be finished.
        """
        if name not in self.found:
            self.found[name] = self._study(train, name)
        problem = self.variants.of(self.found[name].best.settings)
        return replace(problem, on_epoch=self.variants.problem.on_epoch)

    @property
    def search(self) -> Search:
        """The recipe's block."""
        found = self.variants.problem.recipe.search
        assert found is not None
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what every study found, as JSON values."""
        return {name: found.to_json() for name, found in self.found.items()}

    def sentences(self) -> list[str]:
        """Return what a reader of the run must know of it."""
        told = [
            f"{name}: " + ", ".join(f"{path} = {value}" for path, value in found.best.settings.items())
            for name, found in self.found.items()
        ]
        return [
            "Settings were searched inside the training patients of each outer fold, so the out-of-fold"
            f" figures include the search; {self.search.trials} trials each. " + "; ".join(told)
        ]

    def _study(self, train: Ints, name: str) -> Found:
        study, trying = self._opened(name), self._trying(train, name)
        began, search = time.monotonic(), self.search
        trials = _ended(study, name)
        while len(trials) < search.trials and not _late(began, search, trials):
            asked = min(search.together, search.trials - len(trials))
            trials += self._together(study, trying, len(trials), asked)
            if self.progress:
                done = sum(len(found.trials) for found in self.found.values()) + len(trials)
                self.progress("searching", done, self.studies * search.trials)
        finished = [trial for trial in trials if trial.state == "finished"]
        if not finished:
            reasons = sorted({trial.reason for trial in trials})
            raise FittingError(
                f"search, {name}: none of {len(trials)} trials could be finished ({'; '.join(reasons)});"
                " look at search.space, or take fewer inner folds"
            )
        best = max(finished, key=lambda trial: (trial.value, -trial.number))
        return Found(best, tuple(trials))

    def _opened(self, name: str) -> Any:
        """Open a study or begin it; what a dead process had under way is given up."""
        optuna = _optuna()
        self.journals.mkdir(parents=True, exist_ok=True)
        file = self.journals / f"{name.replace('/', '-')}.jsonl"
        _cut_to_whole_lines(file)
        backend = optuna.storages.journal.JournalFileBackend(str(file))
        study = optuna.create_study(
            study_name=name,
            storage=optuna.storages.JournalStorage(backend),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            direction="maximize",
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _trying(self, train: Ints, name: str) -> _Trying:
        problem, search = self.variants.problem, self.search
        strata = [f"{stratum:g}" for stratum in problem.tasks[0].strata(columns(problem.labels)[train, 0])]
        keys = [problem.keys[row] for row in train]
        folds = deal(strata, keys, folds=search.folds, seed=problem.seed(f"{name}/search"))
        rarest = min(strata.count(stratum) for stratum in set(strata) - {"-1"})
        if rarest < 2 * search.folds:
            raise FittingError(
                f"search, {name}: {rarest} training patients are of the rarest class, and {search.folds}"
                f" inner folds need {2 * search.folds}; take fewer search.folds, or leave the search out"
            )
        variants = replace(self.variants, problem=replace(problem, on_epoch=None, searched=None), _open={})
        work, metric = problem.work / "search" / name, self._metric()
        return _Trying(variants, train, folds, name, work, metric, torch.get_num_threads())

    def _metric(self) -> str | None:
        tasks = self.variants.problem.tasks
        return self.search.metric or (METRICS[tasks[0].kind][0] if len(tasks) == 1 else None)

    def _together(self, study: Any, trying: _Trying, first: int, count: int) -> list[Trial]:
        """Draw some trials, run them fold by fold, and tell the study how each ended."""
        states = _optuna().trial.TrialState
        told = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        drawn = [self._drawn(study, trying.name, first + place) for place in range(count)]
        trials = [
            Trial(trying.name, first + place, _settings(each.params), (), "finished")
            for place, each in enumerate(drawn)
        ]
        for fold in range(self.search.folds):
            self._fold(trying, trials, drawn, fold)
        for trial, each in zip(trials, drawn, strict=True):
            if self.on_trial:
                self.on_trial(trial)
            if trial.reason:
                each.set_user_attr(REASON, trial.reason)
            study.tell(each, trial.value, state=told[trial.state])
            shutil.rmtree(trying.place(trial.settings, trial.number), ignore_errors=True)
        return trials

    def _fold(self, trying: _Trying, trials: list[Trial], drawn: Sequence[Any], fold: int) -> None:
        """Run the trials that still live on one inner fold; prune those below the median of earlier ones."""
        live = [place for place, trial in enumerate(trials) if trial.state == "finished"]
        measured = mapped(
            trying,
            [(trials[place].settings, trials[place].number, fold) for place in live],
            lost=lambda _: _Measured(math.nan, LOST),
            address=self.address,
        )
        for place, found in zip(live, measured, strict=True):
            trial = trials[place]
            if found.reason:
                trials[place] = replace(trial, state="failed", reason=found.reason)
                continue
            before = trial.steps[-1] * fold if trial.steps else 0.0
            steps = (*trial.steps, (before + found.value) / (fold + 1))
            drawn[place].report(steps[-1], fold)
            pruned = fold + 1 < self.search.folds and drawn[place].should_prune()
            trials[place] = replace(trial, steps=steps, state="pruned" if pruned else "finished")

    def _drawn(self, study: Any, name: str, number: int) -> Any:
        optuna = _optuna()
        seed = self.variants.problem.seed(f"{name}/search/trial{number}")
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=min(10, self.search.trials // 2)
        )
        return study.ask({path: _distribution(axis) for path, axis in self.search.space.items()})


def _cut_to_whole_lines(file: Path) -> None:
    """Drop the line that a full disk or a fallen machine left half written, which optuna refuses to read."""
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs optuna; run `pip install 'medmm[search]'`") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(axis: Axis) -> Any:
    found = _optuna().distributions
    if not isinstance(axis, Range):
        return found.CategoricalDistribution([json.dumps(value) for value in axis])
    if axis.whole:
        return found.IntDistribution(axis.low, axis.high, log=axis.log)
    return found.FloatDistribution(axis.low, axis.high, log=axis.log)


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return drawn settings; choices are drawn as JSON."""
    return {path: json.loads(value) if isinstance(value, str) else value for path, value in params.items()}


def _ended(study: Any, name: str) -> list[Trial]:
    """Return the trials that ended of themselves, in their order; one given up has no reason."""
    states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    found: list[Trial] = []
    for trial in study.get_trials(deepcopy=False):
        state, reason = states[trial.state.name], trial.user_attrs.get(REASON, "")
        if state != "failed" or reason:
            steps = tuple(trial.intermediate_values[step] for step in sorted(trial.intermediate_values))
            found.append(Trial(name, len(found), _settings(trial.params), steps, state, reason))
    return found


def _late(began: float, search: Search, trials: Sequence[Trial]) -> bool:
    """Tell whether no further trial may begin; one at least always does."""
    limit = search.timeout_minutes
    return limit is not None and bool(trials) and time.monotonic() - began > 60 * limit


def _value(problem: Problem, metric: str | None, rows: Ints, logits: Float64) -> float:
    """Return the mean of the metric over the outcomes, of the patients who were scored; larger is better."""
    labels, found = columns(problem.labels)[rows], []
    for place, task in enumerate(problem.tasks):
        own = logits if len(problem.tasks) == 1 else part(logits, problem.tasks, place)
        own = own[:, 0] if own.ndim > 1 and task.outputs == 1 else own
        known = np.isfinite(labels[:, place]) & scored(own)
        found.append(_one(task, metric, labels[known, place], own[known]))
    return float(np.mean(found))


def _one(task: Task, metric: str | None, labels: Float64, logits: Float64) -> float:
    if len(np.unique(labels)) < 2:
        return math.nan
    if task.kind != "binary":
        raw = read(task, logits) if task.kind == "regression" else logits
        measure = ranking(task, labels, raw, np.zeros(len(labels), np.int64))
        return float(measure(np.ones((1, len(labels))))[0])
    if metric == "log_loss":
        return -log_loss(labels, 1 / (1 + np.exp(-logits)))
    return auprc(labels, logits) if metric == "auprc" else auroc(labels, logits)
