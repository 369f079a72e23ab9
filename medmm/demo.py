"""The main job on the embedded synthetic cohort, from nothing to pages: what `make demo` runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from medmm import train as training
from medmm.cohort.check import check
from medmm.cohort.synthetic import synthesize
from medmm.errors import OutputError
from medmm.explain import explain_cohort, explain_patients
from medmm.outputs.table import write_scores
from medmm.score import score
from medmm.scorer import TRAINED_ON
from medmm.tracking import store

Progress = Callable[[str, int, int], None]


def demo(folder: Path, *, patients: int, say: Callable[[str], None], progress: Progress) -> list[str]:
    """Synthesize, check, train, score and explain under ``folder``; return the next useful commands.

    Raises:
        OutputError: if the folder holds something else than an earlier demo.
    """
    data, pipeline, runs, reports = (folder / name for name in ("data", "pipeline", "runs", "reports"))
    _clear(folder)
    say("1/5  writing a synthetic cohort: CT and radiographs as DICOM, records, biomarkers, notes")
    synthesize(
        data, patients=patients, progress=lambda done, total: progress("writing patients", done, total)
    )
    pipeline.mkdir()
    recipe = files(__package__).joinpath("demo_recipe.yaml").read_text()
    (pipeline / "recipe.yaml").write_text(recipe)
    say("2/5  joining it, up to each patient's prediction time")
    planned = training.plan(pipeline, root=data, progress=progress)
    for line in check(planned.cohort).lines():
        say(f"     {line}")
    say("3/5  training: the fused model, each modality alone, and rivals, on the same folds")
    trained = training.train(planned, training.open_run(planned, runs), progress=progress)
    for line in training.summary(trained):
        say(f"     {line}")
    say("4/5  scoring everybody")
    scores = score(trained.bundle, data, root=data, progress=progress)
    write_scores(scores, folder / "scores.parquet")
    scored = [row for row in scores if row.status == "scored"]
    say(f"     patients {len(scores)} = {len(scored)} scored + {len(scores) - len(scored)} refused")
    say("5/5  explaining the highest score among those held out, and the held-out patients as a whole")
    outcome = planned.recipe.outcome
    unseen = [row for row in scored if TRAINED_ON not in row.warnings]
    highest = max(unseen, key=lambda row: row.outcomes[outcome].calibrated_logit)
    pages = explain_patients(
        trained.bundle, data, [highest.subject_id], reports, root=data, progress=progress
    )
    pages.append(explain_cohort(trained.bundle, data, reports, held_out=True, root=data, progress=progress))
    for page in pages:
        say(f"     report   {page}")
    say(f"     scores   {folder / 'scores.parquet'}")
    return [
        f"mlflow ui --workers 1 --backend-store-uri {store(runs)}   (every run, figure and model)",
        f"medmm score {trained.bundle} --cohort {data} --root {data} --patient {highest.subject_id}",
        "medmm init YOUR_DATA --out cohorts/yours   (your own cohort)",
    ]


def _clear(folder: Path) -> None:
    """Empty the folder of an earlier demo; whatever else lies there is not ours to delete."""
    marker = folder / ".medmm-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise OutputError(f"{folder} is not empty and not an earlier demo; choose another --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()
