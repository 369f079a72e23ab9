"""Runs in an sqlite store and on a real server; nothing of a patient, a user or a path gets into either."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from medmm import tracking
from medmm.bundle import verify, writing
from medmm.errors import BundleError, ConfigError, OutputError
from medmm.tracking import fetch_bundle, store, tracked

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests of the file, since making its tables takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('runs') / 'mlflow.db'}"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with writing(tmp_path / "bundle") as folder:
        (folder / "bundle.json").write_text("{}")
        (folder / "encoders").mkdir()
        (folder / "encoders" / "ct.onnx").write_bytes(bytes(range(256)))
    return tmp_path / "bundle"


def rows(uri: str, query: str, *values: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(query, values).fetchall()


def test_the_store_is_a_file_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracking.URI_VARIABLE, raising=False)
    assert store(tmp_path) == f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"
    monkeypatch.setenv(tracking.URI_VARIABLE, "http://127.0.0.1:9")
    assert store(tmp_path) == "http://127.0.0.1:9"


def test_what_is_recorded_is_there(uri: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "flow.json").write_text("{}")
    with tracked("recorded", "first", uri=uri) as run:
        run.params({"seed": 0, "fusion": {"kind": "late_stack"}, "spacing_mm": (1.5, 3.0), "bf16": False})
        run.epochs((epoch, {"fold0/loss": 1.0 / (epoch + 1)}) for epoch in range(2300))
        run.final({"fused.auroc": (0.81, 0.75, 0.87)})
        run.text("verdict", "helps")
        run.figure("roc", PNG)
        run.figure("calibration", b"<svg/>")
        run.artifacts(tmp_path / "kept", "cohort")
        run.dataset("synthetic", "ab" * 32)
    params = dict(rows(uri, "select key, value from params where run_uuid = ?", run.run_id))
    assert params == {"seed": "0", "fusion.kind": "late_stack", "spacing_mm": "(1.5, 3.0)", "bf16": "False"}
    metrics = dict(rows(uri, "select key, count(*) from metrics where run_uuid = ? group by key", run.run_id))
    assert metrics == {
        "fold0/loss": 2300,
        "fused.auroc": 1,
        "fused.auroc.low": 1,
        "fused.auroc.high": 1,
    }
    assert rows(uri, "select status, name from runs where run_uuid = ?", run.run_id) == [
        ("FINISHED", "first")
    ]
    assert rows(uri, "select name, digest, dataset_source from datasets") == [("synthetic", "ab" * 18, "{}")]
    artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    kept = {str(path).partition("/artifacts/")[2] for path in artifacts.rglob("*") if path.is_file()}
    assert kept >= {"verdict.md", "figures/roc.png", "figures/calibration.svg", "cohort/flow.json"}


def test_epochs_go_in_batches(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracked("batches", "run", uri=uri) as run:
        sizes = []
        send = run._client.log_batch
        monkeypatch.setattr(
            run._client,
            "log_batch",
            lambda run_id, **kept: (sizes.append(len(kept["metrics"])), send(run_id, **kept)),
        )
        run.epochs((epoch, {"a": 0.0, "b": 1.0, "c": 2.0}) for epoch in range(700))
    assert sizes == [1000, 1000, 100]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_a_run_left_early_says_so(uri: str, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracked("left", status, uri=uri) as run:
        raise error
    assert rows(uri, "select status from runs where run_uuid = ?", run.run_id) == [(status,)]


def test_a_run_is_continued(uri: str) -> None:
    with pytest.raises(KeyboardInterrupt), tracked("resumed", "run", uri=uri) as first:
        raise KeyboardInterrupt
    with tracked("resumed", "run", uri=uri, run_id=first.run_id) as second:
        assert rows(uri, "select status from runs where run_uuid = ?", first.run_id) == [("RUNNING",)]
    assert second.run_id == first.run_id
    assert rows(uri, "select status from runs where run_uuid = ?", first.run_id) == [("FINISHED",)]


def test_a_run_that_is_taken_up_logs_each_step_of_a_metric_once(uri: str) -> None:
    """As after a kill between two batches: the first thousand values are there, the others are not."""
    epochs = [(epoch, {"fold0/loss": 1.0 / (epoch + 1)}) for epoch in range(1200)]
    with tracked("twice", "run", uri=uri) as first:
        first.epochs(epochs[:1000])
        first.final({"fused.auroc": (0.81, 0.75, 0.87)})
    for _ in range(2):
        with tracked("twice", "run", uri=uri, run_id=first.run_id) as again:
            again.epochs(epochs)
            again.final({"fused.auroc": (0.81, 0.75, 0.87), "trees.auroc": (0.7, 0.6, 0.8)})
    found = rows(uri, "select key, step, value from metrics where run_uuid = ? order by step", first.run_id)
    assert [(step, value) for key, step, value in found if key == "fold0/loss"] == [
        (epoch, metrics["fold0/loss"]) for epoch, metrics in epochs
    ]
    names = ("fused.auroc", "trees.auroc")
    assert sorted(key for key, _, _ in found if key != "fold0/loss") == sorted(
        name + end for name in names for end in ("", ".low", ".high")
    )


def test_an_artifact_stays_in_its_run(uri: str) -> None:
    with pytest.raises(AssertionError, match="inside its run"), tracked("contained", "run", uri=uri) as run:
        run.text("../../outside", "text")


def test_a_bundle_comes_back_from_the_registry_as_it_was(uri: str, bundle: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        with tracked("registry", "run", uri=uri) as run:
            assert run.register(bundle, "round trip", "candidate") == version
            assert run.register(bundle, "round trip", "candidate") == version, "a run has one version"
    fetched = fetch_bundle("models:/round trip@candidate", tmp_path / "fetched", uri=uri)
    assert fetched.name == "round trip-v2"
    assert verify(fetched) == verify(bundle)
    assert fetch_bundle("models:/round trip/1", tmp_path / "fetched", uri=uri).name == "round trip-v1"
    assert sorted(path.name for path in (tmp_path / "fetched").iterdir()) == [
        "round trip-v1",
        "round trip-v2",
    ]


@pytest.mark.parametrize(
    "model",
    ["round trip", "models:/../x@a", "models:/unknown@candidate", "models:/unknown/7", "models:/a/../b@c"],
)
def test_a_model_that_is_not_there_is_a_config_error(uri: str, model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models:/"):
        fetch_bundle(model, tmp_path / "fetched", uri=uri)


def test_a_model_that_is_no_bundle_is_refused(uri: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"0")
    with tracked("foreign", "run", uri=uri) as run:
        run.register(tmp_path / "other", "foreign", "candidate")
    with pytest.raises(BundleError, match="no bundle"):
        fetch_bundle("models:/foreign@candidate", tmp_path / "fetched", uri=uri)
    assert list((tmp_path / "fetched").iterdir()) == []


def test_nothing_is_pickled(uri: str, bundle: Path) -> None:
    with tracked("pickles", "run", uri=uri) as run:
        run.register(bundle, "pickles", "candidate")
    kept = list(Path(uri.removeprefix("sqlite:///")).parent.rglob("*"))
    assert [path.name for path in kept if path.name == "bundle_model.py"]
    assert [path for path in kept if path.suffix in {".pkl", ".pickle", ".pth", ".pt"}] == []
    assert [
        path for path in kept if path.is_file() and path.read_bytes()[:2] in {b"\x80\x04", b"\x80\x05"}
    ] == []


def test_no_canary_in_the_store(
    bundle: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(variable, "canary-user")
    elsewhere = tmp_path / "canary-folder"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "argv", [str(elsewhere / "canary-script.py")])
    runs = tmp_path_factory.mktemp("clean")
    bundle = bundle.rename(elsewhere / "canary-bundle")
    with tracked("clean", "run", uri=f"sqlite:///{runs / 'mlflow.db'}") as run:
        run.params({"root": str(elsewhere), "question": "Does canary Jane Doe have it", "seed": 1})
        run.dataset("cohort", "cd" * 32)
        run.register(bundle, "clean", "candidate")
        run.text("verdict", "helps")
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        assert b"canary" not in path.read_bytes(), f"the canary is in {path.name}"
        assert "canary" not in str(path.relative_to(runs))
    assert list(elsewhere.iterdir()) == [bundle]


def test_an_unreachable_store_is_one_clear_line_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(OutputError, match=r"tracking store http://127\.0\.0\.1:9 failed") as caught,
        tracked("x", "y", uri="http://user:secret@127.0.0.1:9"),
    ):
        raise AssertionError("the block must not start")
    assert "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    unwritable = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    with (
        pytest.raises(OutputError, match="check MLFLOW_TRACKING_URI"),
        tracked("x", "y", uri=unwritable),
    ):
        raise AssertionError("the block must not start")


LOAD = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
model.predict(["000001"])
"""


def load_elsewhere(uri: str, model: str) -> str:
    """Load and ask a registered model as a stranger would; return how that ended."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, uri, model], capture_output=True, text=True, check=False, timeout=120
    )
    return done.stderr.strip().splitlines()[-1]


def test_mlflow_loads_the_model_and_verifies_the_bundle(uri: str, bundle: Path) -> None:
    with tracked("served", "run", uri=uri) as run:
        run.register(bundle, "served", "candidate")
    assert "ConfigError: load this model with model_config" in load_elsewhere(uri, "models:/served@candidate")
    artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    (weights,) = artifacts.rglob(f"{run.run_id}/**/ct.onnx")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert "BundleError" in load_elsewhere(uri, "models:/served@candidate")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on this machine; it alone knows where its database and artifacts lie."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command,
        env=quiet,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answers = False
        deadline = time.monotonic() + 240  # it makes its database first, which a busy machine does slowly
        while not answers and process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                answers = True
            except OSError:
                time.sleep(0.5)
        assert answers, f"no server came up; it ended with {process.poll()}"
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.service
@pytest.mark.slow
def test_a_server_serves_as_well(server: str, bundle: Path, tmp_path: Path) -> None:
    with tracked("remote", "run", uri=server) as run:
        run.params({"seed": 0})
        run.epochs((epoch, {"loss": 1.0}) for epoch in range(1500))
        run.final({"fused.auroc": (0.8, 0.7, 0.9)})
        run.figure("roc", PNG)
        run.dataset("synthetic", "ab" * 32)
        assert run.register(bundle, "remote", "candidate") == "1"
    fetched = fetch_bundle("models:/remote@candidate", tmp_path / "fetched", uri=server)
    assert verify(fetched) == verify(bundle)
    assert rows(f"sqlite:///{tmp_path / 'server.db'}", "select status from runs") == [("FINISHED",)]
    with pytest.raises(ConfigError, match="not registered"):
        fetch_bundle("models:/remote@champion", tmp_path / "fetched", uri=server)
    with pytest.raises(KeyboardInterrupt), tracked("remote", "stopped", uri=server):
        raise KeyboardInterrupt
    assert ("KILLED",) in rows(f"sqlite:///{tmp_path / 'server.db'}", "select status from runs")


@pytest.mark.parametrize("passed", [True, False])
def test_only_a_model_that_meets_the_rules_is_champion(uri: str, bundle: Path, passed: bool) -> None:
    from medmm.choosing import register
    from medmm.fitting.promotion import Check, Decision

    name = f"promoted_{passed}".lower()
    with tracking.tracked("choosing", "one", uri=uri) as run:
        register(run, bundle, name, Decision((Check("red_team", "at worst look", "x", passed),)))
        run.tag("promotion", "champion" if passed else "candidate")
    assert rows(uri, "SELECT value FROM tags WHERE key = ? AND run_uuid = ?", "promotion", run.run_id) == [
        ("champion" if passed else "candidate",)
    ]
    aliases = {
        alias for (alias,) in rows(uri, "SELECT alias FROM registered_model_aliases WHERE name = ?", name)
    }
    assert aliases == ({"candidate", "champion"} if passed else {"candidate"})


def test_a_child_is_recorded_once_and_what_a_kill_left_half_recorded_goes(uri: str) -> None:
    with tracked("children", "run", uri=uri) as run:
        client, of = run._client, run._client.get_run(run.run_id).info.experiment_id
        for _ in range(2):
            run.child("fold0 trial 0", {"rate": 0.1}, [0.5, 0.6], "finished")
        tags = {"mlflow.parentRunId": run.run_id}
        half = client.create_run(of, tags=tags, run_name="fold0 trial 1").info.run_id
        client.log_param(half, "rate", "0.2")
        run.child("fold0 trial 1", {"rate": 0.2}, [0.4], "pruned")
        found = client.search_runs([of], f"tags.mlflow.parentRunId = '{run.run_id}'")
    assert sorted((child.info.run_name, child.info.status) for child in found) == [
        ("fold0 trial 0", "FINISHED"),
        ("fold0 trial 1", "FINISHED"),
    ]
    assert half not in {child.info.run_id for child in found}
    values = {c.info.run_name: client.get_metric_history(c.info.run_id, "value") for c in found}
    assert [one.value for one in values["fold0 trial 0"]] == [0.5, 0.6]
    assert [one.value for one in values["fold0 trial 1"]] == [0.4]
