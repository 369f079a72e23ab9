from __future__ import annotations

import fcntl
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

os.environ.setdefault("OMP_NUM_THREADS", "1")

# On a machine shared with others the time of one example says nothing. Where a commit is judged it gets one
# answer; elsewhere properties go on being searched.
settings.register_profile("medmm", deadline=None, derandomize="MEDMM_SKIP_IS_FAILURE" in os.environ)
settings.load_profile("medmm")


TABLES_RECIPE = """
name: small
question: Will this patient deteriorate?
intended_use: A test.
cohort: data
outcome: deterioration
modalities:
  records: {kind: records}
  biomarkers: {kind: biomarkers}
fitting: {epochs: 2}
"""
"""Two tables and two epochs: the smallest run there is."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where MEDMM_SKIP_IS_FAILURE is set, nothing may be left out quietly."""
    report = yield
    if os.environ.get("MEDMM_SKIP_IS_FAILURE") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and a skip is a failure here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real cohorts and the DICOM corpus; a test that needs it is skipped without."""
    folder = Path(os.environ.get("MEDMM_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set MEDMM_SHARED to a folder that has them ({folder.name} is not there)")
    return folder


def together(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all workers of one run of the tests share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, own_site: None) -> Once:
    """Make a folder by name, once per run of the tests, however many workers ask for it."""
    shared = together(tmp_path_factory)

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(autouse=True, scope="session")
def own_site(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the tests a site key and a cache of their own; nothing of the user's is read or written."""
    home = together(tmp_path_factory) / "site"
    os.environ["XDG_DATA_HOME"] = str(home / "data")
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    for variable in ("MEDMM_ROOT", "MLFLOW_TRACKING_URI"):
        os.environ.pop(variable, None)


RECIPE = """
name: small
question: Will this patient deteriorate?
intended_use: A test.
cohort: data
outcome: deterioration
modalities:
  ct:
    kind: image
    shape: [16, 16, 8]
    spacing_mm: fit
    window: [-200, 400]
    encoder: {kind: cnn, channels: [4, 8]}
  records: {kind: records}
  biomarkers: {kind: biomarkers}
fitting: {epochs: 2}
threshold: {risk: 0.5}
"""


@dataclass(frozen=True)
class SmallRun:
    """A finished smoke run of 60 patients; ``folder`` holds ``recipe.yaml``, ``data`` and ``runs``."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return next((self.folder / "runs").glob("small-*"))

    @property
    def bundle(self) -> Path:
        return self.run / "bundle"


@pytest.fixture(scope="session")
def written(once: Once) -> Path:
    """A synthetic cohort of 60 patients, to be read or copied, never changed."""
    from medmm.cohort.synthetic import synthesize

    def make(folder: Path) -> None:
        synthesize(folder, patients=60, seed=1)

    return once("written", make)


@pytest.fixture(scope="session")
def small_run(once: Once, written: Path) -> SmallRun:
    """A run to be read, never changed; `small_copy` is one to be damaged."""
    from medmm import train as story

    def make(folder: Path) -> None:
        shutil.copytree(written, folder / "data")
        (folder / "recipe.yaml").write_text(RECIPE)
        planned = story.plan(folder, root=folder / "data", smoke=True)
        story.train(planned, story.open_run(planned, folder / "runs"), register=False)

    return SmallRun(once("small_run", make))


@pytest.fixture(scope="session")
def routed(once: Once, written: Path) -> SmallRun:
    """A run whose bundle has submodels (tests/routed.py), to be read, never changed."""
    from tests.routed import make

    return SmallRun(once("routed", lambda folder: make(folder, written, RECIPE)))


@pytest.fixture
def small_copy(small_run: SmallRun, tmp_path: Path) -> SmallRun:
    """A copy of the small run that a test may change."""
    shutil.copytree(small_run.folder, tmp_path / "small")
    return SmallRun(tmp_path / "small")


@dataclass(frozen=True)
class Said:
    """What a command of the command line left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line as ``python -m medmm`` does, without the seconds a process costs."""
    from medmm.cli import main

    def run(*arguments: object, given: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["medmm", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        before = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as done:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        printed = capsys.readouterr()
        return Said(int(done.value.code or 0), printed.out, printed.err)

    return run


class Machines:
    """A head and a second machine, each a Ray node of its own on this computer."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["PYTHONPATH"] = str(REPOSITORY)
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.second: Any = None
        self.address: str = self.cluster.address

    def whole(self) -> None:
        """Start the second machine where it is not, or a test has ended it."""
        if self.second is None:
            self.second = self.cluster.add_node(num_cpus=1)
            self.cluster.wait_for_nodes()

    def logs(self) -> str:
        folder = Path(self.cluster.head_node.get_logs_dir_path())
        return "".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Machines]:
    """One Ray for all tests of the group "cluster"."""
    pytest.importorskip("ray", reason="no ray: pip install 'medmm[cluster]'")
    before = os.environ.get("PYTHONPATH")
    made = Machines()
    yield made
    made.cluster.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture
def machines(ray_cluster: Machines) -> Machines:
    """The two machines, both up."""
    ray_cluster.whole()
    return ray_cluster
