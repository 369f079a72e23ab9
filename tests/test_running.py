"""The folder of a run: one command at a time."""

from __future__ import annotations

import errno
import fcntl
import shutil

import pytest

from medmm.errors import ConfigError
from medmm.running import held
from tests.conftest import TABLES_RECIPE
from tests.fitting.test_processes import started

OPENING = """
import os, sys
from pathlib import Path
here = Path(sys.argv[2 + int(os.environ["RANK"])])
os.environ["XDG_DATA_HOME"] = str(here / "home")
from medmm.train import open_run, plan
from medmm.errors import ConfigError
for root in (sys.argv[2], here):
    try:
        print("opened", open_run(plan(Path(sys.argv[1]), smoke=True, root=Path(root)), here.parent / "runs"))
    except ConfigError as error:
        print("refused", error)
"""


def test_processes_that_planned_otherwise_do_not_fit_together(written, tmp_path):
    """Two machines, each with a site key of its own: on the same data, and where one label differs."""
    (tmp_path / "recipe.yaml").write_text(TABLES_RECIPE.replace("cohort: data", f"cohort: {written}"))
    for name in ("one", "other"):
        shutil.copytree(written, tmp_path / name)
    labels = tmp_path / "other" / "labels.csv"
    *rest, last = labels.read_text().splitlines()
    patient, label, *others = last.split(",")
    labels.write_text("\n".join([*rest, ",".join([patient, f"{1 - int(label)}", *others])]))
    done = started(["-c", OPENING, tmp_path, tmp_path / "one", tmp_path / "other"], 2)
    assert [one.returncode for one in done] == [0, 0], done
    (run,) = (tmp_path / "runs").iterdir()
    for one in done:
        opened, refused = one.stdout.splitlines()
        assert opened == f"opened {run}"
        assert refused.startswith("refused the processes have not planned the same run")


def test_a_second_command_is_kept_out_until_the_first_ends(tmp_path):
    with held(tmp_path), pytest.raises(ConfigError, match="another command is at work in"), held(tmp_path):
        pass
    with held(tmp_path):
        assert (tmp_path / "lock").exists()


def refused_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*asked: object) -> None:
        raise OSError(code, "as the file system says")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_file_system_without_locks_is_gone_on_with(tmp_path, monkeypatch):
    refused_with(errno.ENOLCK, monkeypatch)
    with held(tmp_path):
        assert (tmp_path / "lock").exists()


def test_another_error_of_the_file_system_is_not_swallowed(tmp_path, monkeypatch):
    refused_with(errno.EIO, monkeypatch)
    with pytest.raises(OSError, match="as the file system says") as raised, held(tmp_path):
        pass
    assert raised.value.errno == errno.EIO
