"""One training run on two machines of a real Ray, and the refusal of a machine with another key."""

from __future__ import annotations

import os
import sys

import pytest

from medmm.bundle import load
from medmm.errors import ClusterError
from medmm.launch import _member, launch
from medmm.train import open_run, plan
from tests.conftest import REPOSITORY, TABLES_RECIPE
from tests.interrupt import interrupted
from tests.test_cluster import ray_warns, real


@real
@ray_warns
@pytest.mark.xdist_group("cluster")
def test_two_machines_train_one_run_to_a_bundle(machines, written, tmp_path):
    recipe = TABLES_RECIPE.replace("cohort: data", f"cohort: {written}")
    (tmp_path / "recipe.yaml").write_text(recipe)
    run = open_run(plan(tmp_path, root=written), tmp_path / "runs")
    heard: dict[str, tuple[int, int]] = {}
    found = launch(
        tmp_path,
        run,
        root=written,
        processes=2,
        cluster=machines.address,
        progress=lambda stage, done, total: heard.update({stage: (done, total)}),
    )
    assert heard["fitting"][0] > 1
    assert found.bundle == run / "bundle"
    assert load(found.bundle).description.name
    assert any(line.startswith("fused") for line in found.lines)


@real
@ray_warns
@pytest.mark.xdist_group("cluster")
def test_a_launched_run_that_is_stopped_says_how_to_go_on(machines, written, tmp_path):
    recipe = TABLES_RECIPE.replace("cohort: data", f"cohort: {written}").replace("epochs: 2", "epochs: 5000")
    (tmp_path / "recipe.yaml").write_text(recipe)
    asked = [".", "--root", f"{written}", "--processes", "2", "--cluster", machines.address]
    code, printed = interrupted(
        [sys.executable, "-m", "medmm", "launch", *asked],
        once=lambda: list((tmp_path / "runs").glob("*/fits/*/*/*.safetensors")),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert code == 130, printed
    run = next((tmp_path / "runs").glob("small-*"))
    assert f"go on with: medmm launch . --processes 2 --cluster {machines.address} " in printed
    assert f"--runs runs --resume runs/{run.name}" in printed
    assert "Traceback" not in printed


def test_a_machine_with_another_key_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="another site key"):
        _member(tmp_path, tmp_path / "run", None, None, {}, "0" * 64, print)


@pytest.mark.parametrize(
    ("search", "cluster", "code", "said"),
    [
        ("", "127.0.0.1:1", 11, "nobody answers"),
        ("search: {space: {fitting.epochs: [1, 2]}}", "local", 4, "without torchrun or `medmm launch`"),
    ],
)
def test_what_cannot_be_launched_leaves_no_run(door, written, tmp_path, search, cluster, code, said):
    pytest.importorskip("ray", reason="no ray: pip install 'medmm[cluster]'")
    recipe = TABLES_RECIPE.replace("cohort: data", f"cohort: {written}")
    (tmp_path / "recipe.yaml").write_text(recipe + search)
    asked = ("--root", written, "--runs", tmp_path / "runs", "--processes", "2", "--cluster", cluster)
    done = door("launch", tmp_path, *asked)
    assert (done.code, said in " ".join(done.err.split())) == (code, True), done.err
    assert not (tmp_path / "runs").exists()
