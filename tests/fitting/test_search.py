"""Searching settings: inside the training patients alone, the same again, and nothing lost by a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmm import train as story
from medmm.errors import ConfigError, FittingError
from medmm.fitting.assemble import assemble
from medmm.fitting.search import Searcher, Trial
from medmm.fitting.variants import Variants
from medmm.recipe import load_recipe
from tests.conftest import TABLES_RECIPE

pytestmark = pytest.mark.xdist_group("search")

SPACE = "{fitting.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}, fusion.kind: [concat, late_mean]}"


def pipeline(folder: Path, data: Path, search: str, *, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    if not (folder / "data").exists():
        (folder / "data").symlink_to(data)
    text = (
        TABLES_RECIPE.replace("epochs: 2", "epochs: 1") + f"search: {search}\nfolds: {{repeats: 1}}\n{more}"
    )
    (folder / "recipe.yaml").write_text(text)
    return folder


def searcher(folder: Path, **options: Any) -> Searcher:
    planned = story.plan(folder, root=folder / "data")
    problem = assemble(
        planned.recipe, planned.cohort, planned.patients, work=folder / "fits", cache=folder / "cache"
    )
    sources = {name: [p.sources[name] for p in planned.patients] for name in planned.recipe.modalities}
    variants = Variants(problem, planned.cohort.declarations, sources, folder / "cache")
    return Searcher(variants, folder / "search", **options)


def ended(trials: tuple[Trial, ...]) -> list[tuple[Any, ...]]:
    return [(trial.number, dict(trial.settings), trial.steps, trial.state) for trial in trials]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("{space: {}}", "names at least one setting"),
        ("{trials: 3}", "search.space is missing"),
        ("{spce: {}}", "did you mean 'space'"),
        ("{space: {fitting.learning_rat: [1, 2]}}", "did you mean 'learning_rate'"),
        ("{space: {fitting.learning_rate: {low: 2, high: 1}}}", "`low` 2 lies below `high` 1"),
        ("{space: {fitting.learning_rate: {low: 0, high: 1, log: true}}}", "is above 0"),
        ("{space: {fitting.learning_rate: {lo: 0, high: 1}}}", "did you mean 'low'"),
        ("{space: {fitting.learning_rate: []}}", "has 0 choices"),
        ("{space: {fitting.learning_rate: [1, 1]}}", "nothing to search"),
        ("{space: {fitting.learning_rate: 3}}", "a list of choices, or"),
        ("{space: {fitting.learning_rate: [1, -1]}}", "greater than 0"),
        ("{space: {fitting.epochs.x: [1, 2]}}", "leads through 'epochs'"),
        ("{space: {seed: [1, 2]}}", "a search varies fitting, fusion"),
        ("{space: {modalities.ct.width: [1, 2]}}", "no modality 'ct'; it has records, biomarkers"),
        ("{space: {fusion.kind: [concat, nonsense]}}", "nonsense"),
        ("{space: {fitting.epochs: {low: 1, high: 2.5}}}", "valid integer"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_when_it_is_read(tmp_path, search, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(pipeline(tmp_path / "p", tmp_path, search))


def test_what_a_modality_does_not_know_is_refused_before_the_first_trial(tmp_path, written):
    folder = pipeline(tmp_path / "p", written, "{space: {modalities.records.encoder.widht: [8, 16]}}")
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        story.plan(folder, root=folder / "data")


def test_what_a_search_cannot_go_with_is_refused(tmp_path, written):
    with pytest.raises(ConfigError, match="final_model: refit"):
        load_recipe(
            pipeline(tmp_path / "a", written, f"{{space: {SPACE}}}", more="final_model: fold_ensemble")
        )
    folder = pipeline(tmp_path / "b", written, f"{{space: {SPACE}, metric: r2}}")
    with pytest.raises(ConfigError, match="take auroc or auprc or log_loss"):
        story.plan(folder, root=folder / "data")


def test_nobody_outside_the_training_patients_has_a_say(tmp_path, written):
    folder = pipeline(tmp_path / "p", written, f"{{space: {SPACE}, trials: 3, folds: 2}}")
    one = searcher(folder)
    problem, train = one.variants.problem, np.arange(0, len(one.variants.problem.labels), 2)
    one(train, "fold0")
    labels = 1 - problem.labels
    labels[train] = problem.labels[train]
    rows = {name: list(reversed(of)) for name, of in problem.rows.items()}
    for name, of in rows.items():
        for row in train:
            of[row] = problem.rows[name][row]
    other = replace(problem, labels=labels, rows=rows, work=folder / "other")
    two = Searcher(replace(one.variants, problem=other, _open={}), folder / "other")
    two(train, "fold0")
    assert ended(two.found["fold0"].trials) == ended(one.found["fold0"].trials)
    assert len(one.found["fold0"].trials) == 3
    assert not list(folder.glob("fits/search/fold0/*"))


def test_a_trial_below_the_median_is_pruned(tmp_path, written):
    search = "{space: {fitting.learning_rate: {low: 1.0e-6, high: 0.1, log: true}}, trials: 9, folds: 3}"
    one = searcher(pipeline(tmp_path / "p", written, search))
    one(np.arange(len(one.variants.problem.labels)), "refit")
    found = one.found["refit"]
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert all(len(trial.steps) < 3 and trial.value is None for trial in pruned)
    values = [trial.value for trial in found.trials if trial.value is not None]
    assert found.best.value == max(values)
    assert len(values) + len(pruned) == 9


def test_what_cannot_be_finished_says_why(tmp_path, written):
    told: list[Trial] = []
    folder = pipeline(
        tmp_path / "p", written, "{space: {fitting.learning_rate: [1.0e+30, 1.0e+35]}, trials: 2}"
    )
    failing = searcher(folder, on_trial=told.append)
    everybody = np.arange(len(failing.variants.problem.labels))
    with pytest.raises(FittingError, match=r"none of 2 trials could be finished .*no finite score"):
        failing(everybody, "refit")
    assert [trial.state for trial in told] == ["failed", "failed"]
    with pytest.raises(FittingError, match="none of 2 trials"):
        searcher(folder)(everybody, "refit")  # and is not tried again
    few = everybody[failing.variants.problem.labels == 0]
    few = np.append(few, everybody[failing.variants.problem.labels == 1][:3])
    with pytest.raises(FittingError, match="3 training patients are of the rarest class"):
        failing(few, "fold0")


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path, written, door):
    search = f"{{space: {SPACE}, trials: 6, folds: 2}}"
    whole = searcher(pipeline(tmp_path / "whole", written, search))
    whole(np.arange(len(whole.variants.problem.labels)), "refit")
    folder = pipeline(tmp_path / "killed", written, search)
    command = [sys.executable, "-m", "medmm", "search", str(folder), "--root", str(folder / "data"), "--runs"]
    process = subprocess.Popen([*command, str(folder / "runs")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        text = "".join(file.read_text() for file in folder.glob("runs/*/search/*.jsonl"))
        if text.count('"op_code":6') >= 2 and text.count('"op_code":4') > text.count('"op_code":6'):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, printed = process.communicate()
    assert process.returncode == -signal.SIGKILL, printed
    run = next(folder.glob("runs/small-*"))
    done = door("search", folder, "--root", folder / "data", "--runs", folder / "runs", "--resume", run)
    assert done.code == 0, done.err
    assert "trials   6 = " in done.out
    assert f"--resume {run}" in done.err.replace("\n", "")
    again = replace(whole, journals=run / "search", found={})
    again(np.arange(len(whole.variants.problem.labels)), "refit")
    assert ended(again.found["refit"].trials) == ended(whole.found["refit"].trials)


def test_a_line_that_was_half_written_loses_its_trial_alone(tmp_path, written):
    """As a full disk or a fallen machine leaves it; cut anywhere, the study ends with the same trials."""
    whole = searcher(pipeline(tmp_path / "p", written, f"{{space: {SPACE}, trials: 3, folds: 2}}"))
    everybody = np.arange(len(whole.variants.problem.labels))
    whole(everybody, "refit")
    journal = next(whole.journals.glob("*.jsonl"))
    content = journal.read_bytes()
    ends = [place for place, letter in enumerate(content) if letter == ord("\n")]
    journal.write_bytes(content[: ends[-1] - 7])
    again = replace(whole, found={})
    again(everybody, "refit")
    assert ended(again.found["refit"].trials) == ended(whole.found["refit"].trials)
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_run_searches_each_fold_and_everybody_and_says_so(tmp_path, written, door):
    search = "{space: {fitting.learning_rate: {low: 1.0e-6, high: 1.0e-1, log: true}}, trials: 6, folds: 2}"
    folder = pipeline(tmp_path / "p", written, search)
    done = door("train", folder, "--root", folder / "data", "--runs", folder / "runs", "--smoke")
    assert done.code == 0, done.err
    run = next(folder.glob("runs/small-*"))
    found = json.loads((run / "bundle" / "metrics.json").read_text())["search"]
    folds = len({name for name in found if name.startswith("fold")})
    assert set(found) == {f"fold{k}" for k in range(folds)} | {"refit"}
    assert all(
        sum(study[state] for state in ("finished", "pruned", "failed")) == 2 for study in found.values()
    )
    assert len({study["settings"]["fitting.learning_rate"] for study in found.values()}) > 1
    assert "How were its settings found?" in (run / "bundle" / "MODEL_CARD.md").read_text()
    assert "Settings were searched inside the training patients" in (run / "training.html").read_text()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    parent = (run / "tracking.txt").read_text()
    experiment = client.get_experiment_by_name("small").experiment_id
    children = [
        child
        for child in client.search_runs([experiment], max_results=500)
        if child.data.tags.get("mlflow.parentRunId") == parent
    ]
    assert len(children) == 2 * (folds + 1)
    assert {child.data.tags["state"] for child in children} == {"finished"}
    assert all("fitting.learning_rate" in child.data.params for child in children)
    assert all("value" in child.data.metrics for child in children)
    scored = door("score", run / "bundle", "--cohort", folder / "data", "--root", folder / "data")
    assert scored.code == 0, scored.err
