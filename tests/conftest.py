from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

os.environ.setdefault("OMP_NUM_THREADS", "1")


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


@pytest.fixture(autouse=True, scope="session")
def own_site(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the tests a site key and a cache of their own; nothing of the user's is read or written."""
    home = tmp_path_factory.getbasetemp() / "site"
    os.environ["XDG_DATA_HOME"] = str(home / "data")
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    for variable in ("MEDMM_ROOT", "MLFLOW_TRACKING_URI"):
        os.environ.pop(variable, None)
