"""Every kind of outcome through every door: trained, scored, evaluated, explained, refused in one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from medmm.bundle import load
from medmm.explain import explain_cohort
from medmm.outputs.table import read_scores
from tests.conftest import Once, Said
from tests.outcome import outcome_cohort

pytestmark = pytest.mark.xdist_group("outcomes")

Door = Callable[..., Said]

ALL = "outcomes: {ill: 1, ward: 1, grade: 1, stay: 1, death: 1, rare: 0.5}\nthreshold: {risk: 0.5}"


def trained(folder: Path, asked: str, **choices: object) -> Path:
    """Train on a fresh cohort and return the bundle."""
    from medmm import train as story

    outcome_cohort.recipe(outcome_cohort.write(folder), asked, **choices)
    planned = story.plan(folder, root=folder)
    return story.train(planned, story.open_run(planned, folder / "runs"), register=False).bundle


@pytest.fixture(scope="session")
def several(once: Once) -> Path:
    """The folder of a run that learned six outcomes of every kind at once."""

    def make(folder: Path) -> None:
        trained(folder, ALL)

    return once("outcomes", make)


def bundle_of(folder: Path) -> Path:
    return next((folder / "runs").glob("kinds-*")) / "bundle"


def at(folder: Path) -> tuple[object, ...]:
    return (bundle_of(folder), "--cohort", folder, "--root", folder)


def test_every_outcome_is_scored_and_its_probabilities_add_up(
    several: Path, door: Door, tmp_path: Path
) -> None:
    for suffix in ("csv", "parquet", "jsonl"):
        assert door("score", *at(several), "--out", tmp_path / f"s.{suffix}").code == 0
    rows = read_scores(tmp_path / "s.csv")
    assert rows == read_scores(tmp_path / "s.parquet") == read_scores(tmp_path / "s.jsonl")
    assert len(rows) == outcome_cohort.PATIENTS
    for row in rows:
        assert set(row.outcomes) == {"ill", "ward", "grade", "stay", "death", "rare"}
        for name in ("ward", "grade"):
            assert sum(row.outcomes[name].probabilities.values()) == pytest.approx(1)
        assert row.outcomes["ill"].decision in ("positive", "negative")
        assert row.outcomes["stay"].value == row.outcomes["stay"].calibrated_logit
        assert row.outcomes["stay"].probability is None
        risks = list(row.outcomes["death"].probabilities.values())
        assert risks == sorted(risks)
    with (tmp_path / "s.csv").open() as stream:
        header = next(csv.reader(stream))
    assert {"ward.probability.intensive care", "ward.logit.home", "stay.value", "grade.decision"} <= set(
        header
    )


def test_a_patient_scores_the_same_alone(several: Path, door: Door, tmp_path: Path) -> None:
    assert door("score", *at(several), "--out", tmp_path / "all.jsonl").code == 0
    assert door("score", *at(several), "--patient", "p007", "--out", tmp_path / "one.jsonl").code == 0
    (alone,) = read_scores(tmp_path / "one.jsonl")
    assert alone in read_scores(tmp_path / "all.jsonl")


def test_every_component_adds_up_on_the_patients_page(several: Path, door: Door, tmp_path: Path) -> None:
    done = door("explain", *at(several), "--patient", "p003", "--out", tmp_path)
    assert done.code == 0, done.err
    page = next(tmp_path.glob("*.html")).read_text()
    components = ("illness", "home", "ward", "intensive care", "grade", "length of stay", "death", "rare")
    for name in components:
        residuals = re.findall(rf"Receipt: {name}, [^<]*<[^r]*?residual (-?[\d.]+e[+-]\d+)", page, re.DOTALL)
        residuals = residuals or re.findall(
            rf"Receipt: {name},.*?residual (-?[\d.]+e[+-]\d+)", page, re.DOTALL
        )
        assert residuals, name
        assert all(abs(float(found)) <= 1e-5 for found in residuals)
    assert "The probabilities add up to 1" in page
    assert "p003" not in page


def test_the_pages_and_the_terminal_tell_the_figures_of_every_outcome(
    several: Path, door: Door, tmp_path: Path
) -> None:
    metrics = json.loads((bundle_of(several) / "metrics.json").read_text())["outcomes"]
    held = door("evaluate", *at(several))
    assert held.code == 0, held.err
    for word in ("balanced_accuracy", "mae", "r2", "c_index", "ibs", "mean_level_error", "was taken for"):
        assert word in held.out
    training = (bundle_of(several).parent / "training.html").read_text()
    card = (bundle_of(several) / "MODEL_CARD.md").read_text()
    for held_out in (False, True):
        explain_cohort(bundle_of(several), several, tmp_path, held_out=held_out, root=several)
    pages = [page.read_text() for page in tmp_path.glob("*.html")]
    assert len(pages) == 2
    for name, measure in (("ward", "macro_f1"), ("stay", "mae"), ("death", "c_index"), ("grade", "auroc")):
        figure = f"{metrics[name]['out_of_fold']['fused'][measure][0]:.2f} ("
        assert figure in training
        assert figure in card
    assert "confusion matrix" in training
    assert all("confusion matrix" in page for page in pages)


def test_what_was_planted_is_found(several: Path) -> None:
    found = json.loads((bundle_of(several) / "metrics.json").read_text())["outcomes"]
    fused = {name: told["out_of_fold"]["fused"] for name, told in found.items()}
    assert fused["ill"]["auroc"][0] > 0.75
    assert fused["ward"]["auroc"][0] > 0.75
    assert fused["grade"]["auroc"][0] > 0.75
    assert fused["stay"]["r2"][0] > 0.5
    assert fused["death"]["c_index"][0] > 0.65
    assert found["rare"]["out_of_fold"]["fused"]["patients"] < fused["ill"]["patients"]  # labels are missing


@pytest.mark.parametrize(
    ("asked", "choices"),
    [
        ("outcome: ward", {"fusion": "late_mean", "fitting": ", imbalance: balanced"}),
        ("outcome: death\nhazards: cox", {}),
    ],
    ids=["late_mean", "cox"],
)
def test_one_outcome_trains_scores_and_explains(
    asked: str, choices: dict[str, str], door: Door, tmp_path: Path
) -> None:
    bundle = trained(tmp_path, asked, epochs=3, **choices)
    assert door("score", *at(tmp_path), "--patient", "p001", "--out", tmp_path / "s.jsonl").code == 0
    (row,) = read_scores(tmp_path / "s.jsonl")
    assert row.status == "scored"
    assert load(bundle).tasks[0].kind == next(iter(row.outcomes.values())).kind
    done = door("explain", *at(tmp_path), "--patient", "p001", "--out", tmp_path / "pages")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("asked", "choices", "said"),
    [
        ("outcome: ward", {"fusion": "late_stack"}, "`late_stack` regresses one binary outcome"),
        ("outcome: ward\nthreshold: {risk: 0.3}", {}, "a `threshold` is of a binary outcome"),
        ("outcome: stay", {"fitting": ", imbalance: focal"}, "balances classes, and stay has none"),
        ("outcome: ward\npromotion: {red_team: look}", {}, "`promotion` judges one binary outcome"),
        ("outcome: ward\nrouting: never_worse", {}, "`routing` judges one binary outcome"),
        ("outcome: stay\nfolds: {repeats: 3}", {}, "`folds.repeats` judges one binary outcome"),
        ("outcomes: [ill, ward]\nrouting: never_worse", {}, "and ill, ward asks for more; leave it out"),
        ("outcome: nothing", {}, "the cohort has no outcome 'nothing'"),
        ("outcome: ill\noutcomes: [ward]", {}, "names its `outcome`, or several under `outcomes`"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    asked: str, choices: dict[str, str], said: str, door: Door, tmp_path: Path
) -> None:
    outcome_cohort.recipe(outcome_cohort.write(tmp_path), asked, **choices)
    done = door("train", tmp_path, "--root", tmp_path, "--runs", tmp_path / "runs")
    assert done.code != 0
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()  # before any work


def test_an_event_time_of_zero_is_refused(door: Door, tmp_path: Path) -> None:
    outcome_cohort.recipe(outcome_cohort.write(tmp_path, days="0"), "outcome: death")
    done = door("train", tmp_path, "--root", tmp_path, "--runs", tmp_path / "runs")
    assert done.code != 0
    assert "1 of 120 times in labels.csv are 0 or below" in " ".join(done.err.split())
