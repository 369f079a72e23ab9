"""A run that is stopped from outside: what it leaves, what it says, and how it is taken up again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import pytest
from mlflow.tracking import MlflowClient

from medmm import running
from medmm import train as story
from medmm.bundle import verify
from medmm.errors import ConfigError
from medmm.running import held
from tests.conftest import RECIPE, TABLES_RECIPE

pytestmark = pytest.mark.xdist_group("small")


def test_a_terminated_run_has_its_own_exit_code_and_resumes(written, tmp_path):
    shutil.copytree(written, tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(TABLES_RECIPE)
    command = [sys.executable, "-m", "medmm", "train", ".", "--root", "data", "--smoke"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/fits/*/*/done.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    assert "Traceback" not in printed
    run = next((tmp_path / "runs").glob("small-*"))
    assert f"--smoke --runs runs --resume runs/{run.name}" in printed
    assert f"run      runs/{run.name}; " in printed
    assert not (run / "bundle").exists()
    assert not list(run.glob(".bundle-*"))
    fitted = {file: file.stat().st_mtime_ns for file in run.rglob("done.safetensors")}
    assert fitted
    planned = story.plan(tmp_path, root=tmp_path / "data", smoke=True)
    assert story.open_run(planned, tmp_path / "runs", run) == run
    with held(run), pytest.raises(ConfigError, match="another command is at work in"):
        story.train(planned, run, register=False)
    fewer = replace(planned, patients=planned.patients[1:])
    with pytest.raises(ConfigError, match="of another selection of patients"):
        story.open_run(fewer, tmp_path / "runs", run)
    declared = planned.cohort.declarations
    turned = {**declared, "records": dict(reversed(declared["records"].items()))}
    other = replace(planned, cohort=replace(planned.cohort, declarations=turned))
    with pytest.raises(ConfigError, match="of another order of columns in cohort"):
        story.open_run(other, tmp_path / "runs", run)
    modalities = dict(reversed(planned.recipe.modalities.items()))
    other = replace(planned, recipe=planned.recipe.model_copy(update={"modalities": modalities}))
    with pytest.raises(ConfigError, match="of another recipe"):
        story.open_run(other, tmp_path / "runs", run)
    trained = story.train(planned, run, register=False)
    assert verify(run / "bundle") == trained.sha256
    assert {file: file.stat().st_mtime_ns for file in fitted} == fitted
    with pytest.raises(ConfigError, match="is finished, and its bundle stays"):
        story.open_run(planned, tmp_path / "runs", run)


def test_a_finished_run_is_not_taken_up_again(small_run, door):
    before = verify(small_run.bundle)
    done = door(
        "train", small_run.folder, "--root", small_run.data, "--smoke",
        "--runs", small_run.folder / "runs", "--resume", small_run.run,
    )  # fmt: skip
    assert done.code == 4
    assert "is finished, and its bundle stays; start anew without --resume" in " ".join(done.err.split())
    assert verify(small_run.bundle) == before


def test_what_is_no_run_or_another_is_not_taken_up(small_copy, door, tmp_path):
    (small_copy.run / "finished.json").unlink()
    asked = ("train", small_copy.folder, "--root", small_copy.data, "--runs", tmp_path / "runs", "--resume")
    other = door(*asked, small_copy.run)  # without --smoke it is another recipe
    assert (other.code, "of another recipe" in other.err) == (4, True)
    nothing = door(*asked, tmp_path)
    assert (nothing.code, "is not a run" in nothing.err) == (4, True)
    assert not (tmp_path / "runs").exists()


class Killed(BaseException):
    """What stops a run where a test asks for it."""


def stop(*given: object, **named: object) -> None:
    raise Killed


@pytest.fixture
def tables(written, tmp_path):
    """The folder of a recipe of two tables, not yet trained."""
    shutil.copytree(written, tmp_path / "data")
    rules = "folds: {repeats: 1}\npromotion: {not_worse_than_best_single: 0.4}\n"
    (tmp_path / "recipe.yaml").write_text(TABLES_RECIPE + rules)
    return tmp_path


def test_a_run_stopped_after_sealing_keeps_its_bundle_and_ends(tables, monkeypatch, door):
    """Stopped before its page, again before it is tracked, and again when all is done but the word for it."""
    asked = ("train", tables, "--root", tables / "data", "--runs", tables / "runs", "--jobs", 1)
    resumed: tuple[object, ...] = ()
    before = ""
    for room, at in ((story, "training_page"), (story, "track"), (running, "finish")):
        with monkeypatch.context() as during:
            during.setattr(room, at, stop)
            with pytest.raises(Killed):
                door(*asked, *resumed)
        run = next((tables / "runs").glob("small-*"))
        resumed, before = ("--resume", run), before or verify(run / "bundle")
        assert (run / "local" / "training.json").exists()
        assert (run / "training.html").exists() == (at != "training_page")
    done = door(*asked, "--resume", run)
    assert done.code == 0, done.err
    assert f"sha256   {before}" in done.out
    assert verify(run / "bundle") == before
    assert before in (run / "training.html").read_text()
    client = MlflowClient(f"sqlite:///{tables}/runs/mlflow.db")
    found = client.get_run((run / "tracking.txt").read_text())
    assert found.info.status == "FINISHED"
    assert found.data.tags["promotion"] in ("champion", "candidate")
    assert "fused.auroc" in found.data.metrics
    for name in found.data.metrics:
        steps = [metric.step for metric in client.get_metric_history(found.info.run_id, name)]
        assert len(steps) == len(set(steps)), name
    assert len(found.inputs.dataset_inputs) == 1
    assert [one.run_id for one in client.search_model_versions("name = 'small'")] == [found.info.run_id]
    assert client.get_model_version_by_alias("small", "candidate").run_id == found.info.run_id
    again = door(*asked, "--resume", run)
    assert (again.code, "is finished" in again.err) == (4, True)


def test_a_run_of_another_version_is_not_gone_on_with(tables):
    planned = story.plan(tables, root=tables / "data", smoke=True)
    run = story.open_run(planned, tables / "runs")
    begun = json.loads((run / "run.json").read_text())
    assert begun["medmm"] == version("medmm")
    other, earlier = begun | {"medmm": "0.0.7"}, {key: begun[key] for key in begun if key != "medmm"}
    other["recipe"] = begun["recipe"] | {"what_it_could_say_then": 1}
    for changed, named in ((other, "0.0.7"), (earlier, "of an earlier time")):
        (run / "run.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=f"begun by medmm {named}, and this is {version('medmm')}"):
            story.open_run(planned, tables / "runs", run)
    (run / "run.json").write_text("7")
    with pytest.raises(ConfigError, match="is not a run"):
        story.open_run(planned, tables / "runs", run)
    (run / "run.json").write_text(json.dumps(begun))
    assert story.open_run(planned, tables / "runs", run) == run


@pytest.mark.parametrize("search", [False, True])
def test_a_run_goes_on_with_the_weights_it_began_with(written, tmp_path, door, search):
    """The recipe's own file, and one that only its search may take; other bytes under the same name."""
    encoder = "channels: [4, 8], pretrained: {file: weights.safetensors}"
    recipe = RECIPE.replace("cohort: data", f"cohort: {written}").replace("channels: [4, 8]", encoder)
    space = "{modalities.ct.encoder.pretrained.file: [weights.safetensors, others.safetensors]}"
    (tmp_path / "recipe.yaml").write_text(
        recipe + (f"search: {{trials: 2, space: {space}}}" if search else "")
    )
    for name in ("weights", "others"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    planned = story.plan(tmp_path, root=written, smoke=True)
    run = story.open_run(planned, tmp_path / "runs")
    assert story.open_run(planned, tmp_path / "runs", run) == run
    (tmp_path / f"{'others' if search else 'weights'}.safetensors").write_text("changed")
    asked = ("--root", written, "--smoke", "--runs", tmp_path / "runs", "--resume", run)
    done = door("train", tmp_path, *asked)
    assert done.code == 4
    assert "was of another file of pretrained weights; call it as it was begun" in " ".join(done.err.split())
