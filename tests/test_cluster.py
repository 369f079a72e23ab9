"""The map over patients on a real Ray of two machines, one of which dies, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import pytest

from medmm.cluster import _FirstLines, mapped, together
from medmm.errors import ClusterError, DataError
from medmm.outputs.table import to_json
from medmm.score import score
from tests import cluster_work as work
from tests.conftest import REPOSITORY
from tests.interrupt import interrupted

pytestmark = [pytest.mark.xdist_group("cluster")]

real = pytest.mark.service
ray_warns = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)


def no_loss(item: Any) -> Any:
    raise AssertionError("nothing may be lost here")


def test_without_an_address_it_is_done_here_in_order_and_no_ray_is_imported():
    told: list[tuple[int, int]] = []
    assert mapped(work.squared, [3, 1, 2], lost=no_loss, progress=lambda *now: told.append(now)) == [9, 1, 4]
    assert told == [(1, 3), (2, 3), (3, 3)]
    code = (
        "import sys; from medmm.cluster import mapped; mapped(abs, [-1], lost=abs);"
        "import medmm.score; sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "host:port"),
        ("127.0.0.1:1", "nobody answers at 127.0.0.1:1: start a cluster"),
        ("127.0.0.1:99999999", "nobody answers"),
        ("no-such-host.invalid:6379", "nobody answers"),
    ],
)
def test_an_address_that_is_none_is_said_within_seconds(address, said):
    began = time.monotonic()
    with pytest.raises(ClusterError, match=said) as refused:
        mapped(work.squared, [1], lost=no_loss, address=address)
    assert refused.value.exit_code == 11
    assert time.monotonic() - began < 20


@real
@ray_warns
def test_what_a_worker_does_is_what_is_done_here(machines):
    items = list(range(40))
    assert mapped(work.squared, items, lost=no_loss, address=machines.address) == [n * n for n in items]


def test_of_what_ray_prints_the_first_line_is_shown_and_not_among_results(capsys):
    with redirect_stdout(_FirstLines()):
        print("(raylet) Raylet is terminated.\n    [state-dump] of the dead machine")
        print("(raylet) The node has been marked dead")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "(raylet) Raylet is terminated.\n(raylet) The node has been marked dead\n"


@real
@ray_warns
def test_a_worker_that_dies_costs_nothing_and_a_poisonous_item_itself_alone(machines, tmp_path):
    numbered = [(str(tmp_path), number) for number in range(8)]
    assert mapped(work.once_killed, numbered, lost=no_loss, address=machines.address) == list(range(8))
    found = mapped(work.poisonous, range(6), lost=lambda item: f"{item} lost", address=machines.address)
    assert found == ["0 done", "1 done", "2 done", "3 lost", "4 done", "5 done"]


@real
@ray_warns
def test_an_error_comes_home_with_its_type_and_leaves_no_id_in_the_logs(machines):
    with pytest.raises(DataError, match="a table is malformed") as raised:
        mapped(work.refusing, ["a", "MRN-0815-SECRET"], lost=no_loss, address=machines.address)
    assert "cluster_work.py" in "".join(raised.value.__notes__)
    assert "MRN-0815-SECRET" not in machines.logs()


@real
@ray_warns
def test_two_machines_fit_one_network_to_the_weights_that_torchrun_gives(machines, tmp_path):
    from safetensors.torch import load_file

    from tests.fitting.test_processes import ASKED
    from tests.fitting.test_processes import together as under_torchrun

    heard: list[tuple[str, int, int]] = []
    found = together(
        partial(work.fitted, str(tmp_path / "ray")),
        processes=2,
        address=machines.address,
        progress=lambda *told: heard.append(told),
    )
    assert heard[-1] == ("fitting", 2, 2)
    assert len(heard) == len(set(heard))
    assert [rank for _, rank, _ in found] == ["0", "1"]
    assert len({machine for machine, _, _ in found}) == 2
    done = under_torchrun(tmp_path / "two", ASKED)
    assert [one.returncode for one in done] == [0, 0], "\n".join(one.stderr for one in done)
    for name, value in load_file(tmp_path / "two" / "weights.safetensors").items():
        for _, _, weights in found:
            assert weights[name] == pytest.approx(value.flatten().tolist(), abs=1e-6), name
    with pytest.raises(ClusterError, match="9 processes need a core each, and the cluster has 2"):
        together(work.squared, processes=9, address=machines.address)


@real
@ray_warns
def test_trials_side_by_side_are_those_of_one_process(machines, tmp_path, written):
    from tests.fitting.test_search import SPACE, ended, pipeline, searcher

    search = f"{{space: {SPACE}, trials: 2, folds: 2, together: 2}}"
    here = searcher(pipeline(tmp_path / "here", written, search))
    there = searcher(pipeline(tmp_path / "there", written, search), address=machines.address)
    everybody = np.arange(len(here.variants.problem.labels))
    here(everybody, "refit")
    there(everybody, "refit")
    assert ended(there.found["refit"].trials) == ended(here.found["refit"].trials)


@real
@ray_warns
def test_the_door_writes_the_same_bytes(machines, small_run, tmp_path, door):
    asked = ("score", small_run.bundle, "--cohort", small_run.data, "--root", small_run.data, "--out")
    assert door(*asked, tmp_path / "here.jsonl").code == 0
    there = door(*asked, tmp_path / "there.jsonl", "--cluster", machines.address)
    assert there.code == 0, there.err
    assert (tmp_path / "there.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()


@real
@ray_warns
def test_a_cohort_scores_the_same_while_a_machine_dies(machines, small_run):
    from medmm.bundle import load

    here = score(small_run.bundle, small_run.data, root=small_run.data)
    sha256 = load(small_run.bundle).sha256

    def kill_one(stage: str, done: int, total: int) -> None:
        if stage == "scoring" and done == 20 and machines.second is not None:
            machines.cluster.remove_node(machines.second, allow_graceful=False)
            machines.second = None

    there = score(
        small_run.bundle, small_run.data, root=small_run.data, cluster=machines.address, progress=kill_one
    )
    assert machines.second is None
    assert sum(row.status == "scored" for row in here) > 40
    assert [to_json(row) for row in there] == [to_json(row) for row in here]
    assert {row.bundle_sha256 for row in there} == {sha256}
    logs = machines.logs()
    assert logs
    assert not any(row.subject_id in logs for row in here)


@real
def test_an_interrupt_ends_what_is_under_way(tmp_path):
    pytest.importorskip("ray", reason="no ray: pip install 'medmm[cluster]'")
    code = (
        "import sys; from medmm.cluster import mapped; from tests.cluster_work import slow\n"
        "mapped(slow, [(sys.argv[1], n) for n in range(4)], lost=repr, address='local')"
    )
    returned, _ = interrupted(
        [sys.executable, "-c", code, str(tmp_path)],
        once=lambda: list(tmp_path.glob("began-*")),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert returned != 0
    assert list(tmp_path.glob("began-*"))
    assert not list(tmp_path.glob("ended-*"))
