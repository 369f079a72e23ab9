"""Tracking of runs and registry of models: the one file that imports mlflow.

Everything that arrives here is a plain value, and leaves for a place that others read. So no tag is set
automatically (MLflow would record the user's name and the script's path), a data set is its digest, and
a parameter that could be a path or a sentence is withheld (:mod:`medmm.withheld`). No patient's id may be
passed to this room.

The model in the registry is our own bundle beside a few lines of code that load it through medmm, after
its manifest has been verified. Nothing is pickled, and :func:`fetch_bundle` runs none of that code.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from medmm.errors import BundleError, ConfigError, OutputError
from medmm.withheld import flattened, plain, safe_name, shown

URI_VARIABLE = "MLFLOW_TRACKING_URI"
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
"""Limits of one ``log_batch`` request (MLflow REST API)."""

_ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
_BUNDLE, _MODEL = "artifacts/bundle", "model"


def store(runs: Path) -> str:
    """Return the tracking URI: ``MLFLOW_TRACKING_URI``, or an sqlite file in the folder of the runs."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


class Run:
    """One run that is being tracked; every method takes plain values and sends them at once."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings; nested mappings become dotted names, doubtful values withheld."""
        from mlflow.entities import Param

        entries = [Param(safe_name(key), plain(value)) for key, value in flattened(values)]
        for chunk in _chunks(entries, PARAMS_PER_BATCH):
            self._batch(params=chunk)

    def epochs(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Record (step, metrics) of many epochs in few requests."""
        self._metrics((name, value, step) for step, values in rows for name, value in values.items())

    def final(self, figures: Mapping[str, tuple[float, float, float]]) -> None:
        """Record each figure as ``name``, with its interval as ``name.low`` and ``name.high``."""
        self._metrics(
            (name + end, value, 0)
            for name, interval in figures.items()
            for end, value in zip(("", ".low", ".high"), interval, strict=True)
        )

    def text(self, name: str, text: str) -> None:
        """Keep a text as ``name.md``; the caller vouches that it speaks of no patient."""
        self._file(name if Path(name).suffix else f"{name}.md", text.encode())

    def figure(self, name: str, image: bytes) -> None:
        """Keep a figure, PNG or SVG, under ``figures/``."""
        suffix = ".png" if image.startswith(b"\x89PNG") else ".svg"
        self._file(f"figures/{name}{suffix}", image)

    def artifacts(self, folder: Path, path: str) -> None:
        """Keep every file of a folder under ``path``."""
        with _explained():
            self._client.log_artifacts(self.run_id, str(folder), path)

    def dataset(self, name: str, digest: str) -> None:
        """Record which data were used: a name and a digest, neither source nor columns.

        Args:
            name: name of the cohort.
            digest: SHA-256 in hex; MLflow keeps its first 36 digits.
        """
        from mlflow.entities import Dataset, DatasetInput

        entry = Dataset(name=safe_name(name), digest=digest[:36], source_type="digest", source="{}")
        with _explained():
            self._client.log_inputs(self.run_id, [DatasetInput(entry)])

    def register(self, bundle: Path, model_name: str, alias: str) -> str:
        """Keep a bundle as a model of this run, register it once, and point the alias to it.

        Args:
            bundle: folder of a sealed bundle.
            model_name: name in the registry.
            alias: "candidate", "champion", …; moves from an older version to this one.

        Returns:
            The version in the registry.

        Raises:
            OutputError: if the tracking store fails.
        """
        with _explained(), tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / _MODEL
            _write_model(folder, bundle, self.run_id)
            self._client.log_artifacts(self.run_id, str(folder), _MODEL)
            source = f"{self._client.get_run(self.run_id).info.artifact_uri}/{_MODEL}"
            _register_name(self._client, model_name)
            of_this_run = f"name = '{model_name}' and run_id = '{self.run_id}'"
            made, *_ = self._client.search_model_versions(of_this_run) or [  # before it was stopped
                self._client.create_model_version(model_name, source, run_id=self.run_id)
            ]
            self._client.set_registered_model_alias(model_name, alias, made.version)
            return str(made.version)

    def promote(self, model_name: str, version: str, alias: str) -> None:
        """Point another alias, "champion", to a registered version; it leaves the version that had it.

        Raises:
            OutputError: if the tracking store fails.
        """
        with _explained():
            self._client.set_registered_model_alias(model_name, alias, version)

    def child(
        self, name: str, params: Mapping[str, Any], steps: Sequence[float], state: str, reason: str = ""
    ) -> None:
        """Record a run inside this one, as it ended: a trial with its settings and its value step by step.

        One that has been recorded is not recorded again; what a kill left half recorded is deleted.
        """
        if self._recorded(name):
            return
        tags = {"mlflow.parentRunId": self.run_id, "state": state}
        with _explained():
            of = self._client.get_run(self.run_id).info.experiment_id
            inside = Run(self._client, self._client.create_run(of, tags=tags, run_name=name).info.run_id)
        inside.params(params)
        inside.epochs((step, {"value": value}) for step, value in enumerate(steps))
        if reason:
            inside.text("reason", reason)
        _end(self._client, inside.run_id, "FAILED" if state == "failed" else "FINISHED")

    def _recorded(self, name: str) -> bool:
        """Tell whether a run inside this one has been recorded whole; delete it where it was begun alone."""
        with _explained():
            of = self._client.get_run(self.run_id).info.experiment_id
            asked = f"tags.mlflow.parentRunId = '{self.run_id}' and attributes.run_name = '{name}'"
            found = self._client.search_runs([of], asked)
            for run in found:
                if run.info.status == "RUNNING":
                    self._client.delete_run(run.info.run_id)
        return any(run.info.status != "RUNNING" for run in found)

    def tag(self, name: str, value: str) -> None:
        """Tag the run with a word; the caller vouches that it speaks of no patient."""
        with _explained():
            self._client.set_tag(self.run_id, safe_name(name), plain(value))

    def _metrics(self, values: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(safe_name(name), float(value), now, step) for name, value, step in values]
        for chunk in _chunks(self._new(entries), METRICS_PER_BATCH):
            self._batch(metrics=chunk)

    def _new(self, entries: Sequence[Any]) -> list[Any]:
        """Return those whose step is not there yet: the store would keep a second value beside the first."""
        with _explained():
            there = self._client.get_run(self.run_id).data.metrics.keys()
            known = {
                (name, metric.step)
                for name in {entry.key for entry in entries} & there
                for metric in self._client.get_metric_history(self.run_id, name)
            }
        return [entry for entry in entries if (entry.key, entry.step) not in known]

    def _batch(self, **entities: Any) -> None:
        with _explained():
            self._client.log_batch(self.run_id, **entities)

    def _file(self, name: str, content: bytes) -> None:
        place = Path(safe_name(name))
        if place.is_absolute() or ".." in place.parts:
            raise AssertionError("an artifact's name is relative and stays inside its run")
        with _explained(), tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / place.name
            file.write_bytes(content)
            parent = place.parent.as_posix()
            self._client.log_artifact(self.run_id, str(file), None if parent == "." else parent)


@contextmanager
def tracked(experiment: str, run_name: str, *, uri: str, run_id: str | None = None) -> Iterator[Run]:
    """Track the block as one run: finished when it ends, failed on an error, killed on an interrupt.

    Args:
        experiment: name of the experiment, made when it is new.
        run_name: name of the run.
        uri: tracking store, usually from :func:`store`.
        run_id: an earlier run that this one continues.

    Raises:
        OutputError: if the store cannot be reached or written.
    """
    client = _client(uri)
    with _explained(uri):
        if run_id is None:
            run = client.create_run(_experiment(client, experiment), tags={}, run_name=run_name)
            run_id = run.info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
    try:
        yield Run(client, run_id)
    except BaseException as error:
        _end(client, run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    with _explained(uri):
        client.set_terminated(run_id, "FINISHED")


def fetch_bundle(model: str, into: Path, *, uri: str) -> Path:
    """Download the bundle of a registered model; nothing of it is executed, and nothing verified yet.

    Args:
        model: ``models:/name@alias`` or ``models:/name/version``.
        into: folder in which the bundle gets a folder of its own, ``<name>-v<version>``.
        uri: tracking store, usually from :func:`store`.

    Returns:
        The folder of the bundle; load it with ``medmm.bundle.load``, which verifies it.

    Raises:
        ConfigError: if ``model`` has another form, or no such model is registered.
        OutputError: if the store cannot be reached or the folder cannot be written.
        BundleError: if the model holds no bundle of medmm.
    """
    found = re.fullmatch(r"models:/([\w. -]+)(?:@([\w-]+)|/(\d+))", model)
    if not found:
        raise ConfigError(f"{model!r} is no model; write models:/name@alias or models:/name/version")
    name, alias, number = found.groups()
    client = _client(uri)
    made = _version(client, model, name, alias, number)
    target = into / f"{name}-v{made.version}"
    with _explained(uri):
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".fetch-") as scratch:
            bundle = _download(f"{made.source}/{_BUNDLE}", Path(scratch), uri)
            if not (bundle / "manifest.sha256").is_file():
                raise BundleError(f"{model} holds no bundle of medmm")
            shutil.rmtree(target, ignore_errors=True)
            bundle.replace(target)
    return target


def _client(uri: str) -> Any:
    # Read when mlflow is imported: it would report use to its makers and draw bars over ours.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _explained(uri), _artifacts_beside(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _artifacts_beside(uri: str) -> Iterator[None]:
    """Keep the artifacts of an sqlite store in ``mlartifacts`` beside it.

    MLflow would keep them under the current folder, and write that folder's path into the database. It
    has no public setting for this outside its server, only the variable that the server itself sets.
    """
    if not uri.startswith("sqlite:///"):
        yield
        return
    before = os.environ.get(_ARTIFACT_ROOT)
    os.environ[_ARTIFACT_ROOT] = (
        (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").resolve().as_uri()
    )
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ARTIFACT_ROOT]
        else:
            os.environ[_ARTIFACT_ROOT] = before


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def _end(client: Any, run_id: str, status: str) -> None:
    """Mark a run that is being left by an error; that error matters more than one from here."""
    try:
        client.set_terminated(run_id, status)
    except Exception as error:
        logging.getLogger(__name__).warning("run left unmarked in the store: %s", type(error).__name__)


def _register_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(client: Any, model: str, name: str, alias: str | None, number: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    with _explained():
        try:
            if alias is not None:
                return client.get_model_version_by_alias(name, alias)
            return client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise ConfigError(
                    f"{model} is not registered in this store; its Models page lists what is"
                ) from None
            raise


def _download(source: str, into: Path, uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    place = Path(download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=uri)).resolve()
    if not place.is_relative_to(into.resolve()):
        raise BundleError("the store named a file outside the folder it was asked to fill")
    return place


def _write_model(folder: Path, bundle: Path, run_id: str) -> None:
    """Write an MLflow model by hand: MLmodel, our loading code, the bundle.

    ``mlflow.pyfunc.save_model`` would load the model to guess requirements and record the bundle's path.
    """
    from mlflow.models import Model

    shutil.copytree(bundle, folder / _BUNDLE)
    code = files("medmm").joinpath("tracking_model.py.txt").read_text()
    (folder / "bundle_model.py").write_text(code)
    needed = f"medmm=={version('medmm')}"
    (folder / "requirements.txt").write_text(needed + "\n")
    model = Model(artifact_path=_MODEL, run_id=run_id)
    model.add_flavor(
        "python_function",
        loader_module="mlflow.pyfunc.loaders.code_model",
        python_version=platform.python_version(),
        model_code_path="bundle_model.py",
        config={"cohort": "", "root": ""},
        artifacts={"bundle": {"path": _BUNDLE, "uri": ""}},
    )
    model.save(str(folder / "MLmodel"))


@contextmanager
def _explained(uri: str | None = None) -> Iterator[None]:
    """Turn what the store raises into one clear line without credentials.

    MLflow's use of deprecated parts of its own dependencies is nothing a caller could act on.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
            yield
    except (MlflowException, SQLAlchemyError, OSError, ValueError) as error:
        if isinstance(error, (BundleError, ConfigError, OutputError)):
            raise
        where = f" {shown(uri)}" if uri else ""
        raise OutputError(
            f"the tracking store{where} failed ({type(error).__name__});"
            f" check {URI_VARIABLE} and that it is up and writable"
        ) from error


def _chunks(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
