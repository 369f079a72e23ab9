"""One small cohort, written in every form that a cohort can be read from."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmm.cohort.link import Cohort, link
from medmm.cohort.spec import load_spec
from medmm.cohort.synthetic.exports import export
from medmm.cohort.synthetic.write import declaration
from medmm.columns import Value
from medmm.sources.duck import Engine, literal

KEY = b"k" * 32
FORMS = ("csv", "parquet", "meds", "omop", "omop-duckdb", "fhir")
Tables = Mapping[str, Sequence[Mapping[str, str]]]


class Form:
    """Writes synthetic tables into a folder, in one form, and joins them."""

    def __init__(self, folder: Path, form: str) -> None:
        self.folder = folder
        self.form = form
        self.data_model = form.split("-", maxsplit=1)[0]
        self.edits: list[Callable[[dict[str, Any]], None]] = []

    def write(self, tables: Tables) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, rows in tables.items():
            with (self.folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else EMPTY[name], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        spec = yaml.safe_load(declaration())
        spec |= {"images": {}, "never_tables": {}, "splits": {"folds": 3}}
        spec["outcomes"] = {name: spec["outcomes"][name] for name in ("deterioration", "pneumonia")}
        spec["never_columns"].pop("disposition.csv", None)
        spec["notes"]["input"] = {"take": "all"}
        spec["biomarkers"]["max_unparsable"] = 0.99
        crp = spec["biomarkers"]["results"]["crp"]
        crp |= {"summary": ["last", "first", "min", "max", "mean", "count", "slope"], "series": True}
        for edit in self.edits:
            edit(spec)
        (self.folder / "cohort.yaml").write_text(yaml.safe_dump(spec))
        getattr(self, f"_{self.form.replace('-', '_')}")(spec)

    def link(self, **options: Any) -> Cohort:
        told = "cohort.yaml" if self.data_model in ("csv", "parquet") else f"cohort-{self.data_model}.yaml"
        return link(load_spec(self.folder / told), self.folder, key=KEY, **options)

    def named(self) -> Mapping[str, str]:
        """Real ids by those of the form; MEDS counts its subjects."""
        if self.form != "meds":
            return {}
        with (self.folder / "meds" / "patients.csv").open(newline="") as file:
            return {row["subject_id"]: row["patient_id"] for row in csv.DictReader(file)}

    def told(self, **options: Any) -> dict[str, Any]:
        """Everything of the joined table that a form cannot change."""
        names, cohort = self.named(), self.link(**options)
        flow = cohort.flow
        return {
            "patients": {
                names.get(p.subject_id, p.subject_id): (
                    {k: _of_field(v) for k, v in p.sources["records"].items()},
                    dict(p.sources["biomarkers"]),
                    p.sources["series"],
                    p.sources["notes"],
                    p.targets,
                    p.subgroups,
                )
                for p in cohort.patients
            },
            "excluded": {names.get(s, s): why for s, why in cohort.excluded.items()},
            "flow": (flow.subjects.parts, flow.results.parts, flow.notes.parts, flow.results.total),
            "unparsable": flow.unparsable,
        }

    def _csv(self, spec: dict[str, Any]) -> None:
        pass

    def _parquet(self, spec: dict[str, Any]) -> None:
        text = yaml.safe_dump(spec)
        with Engine(threads=1) as engine:
            for path in sorted(self.folder.glob("*.csv")):
                read = f"read_csv({literal(str(path))}, all_varchar=true, header=true, quote='\"')"
                engine.copy(f"SELECT * FROM {read}", path.with_suffix(".parquet"), "FORMAT parquet")
                text = text.replace(path.name, f"{path.stem}.parquet")
        (self.folder / "cohort.yaml").write_text(text)

    def _export(self, form: str) -> dict[str, Any]:
        return yaml.safe_load(export(self.folder, form).read_text())

    def _keep(self, form: str, spec: dict[str, Any]) -> None:
        (self.folder / f"cohort-{form}.yaml").write_text(yaml.safe_dump(spec))

    def _meds(self, spec: dict[str, Any]) -> None:
        told = self._export("meds")
        del told["source"]["midnight"]
        self._keep("meds", told)

    def _omop(self, spec: dict[str, Any]) -> None:
        self._export("omop")

    def _omop_duckdb(self, spec: dict[str, Any]) -> None:
        told = self._export("omop")
        with Engine(threads=1) as engine:
            database = self.folder / "cdm.duckdb"
            engine.run(f"ATTACH {literal(str(database))} AS made")
            engine.run("CREATE SCHEMA made.cdm")
            for path in sorted((self.folder / "omop").glob("*.csv")):
                read = f"read_csv({literal(str(path))}, sample_size=-1, quote='\"')"
                engine.run(f"CREATE TABLE made.cdm.{path.stem} AS SELECT * FROM {read}")
            engine.run("DETACH made")
        del told["source"]["path"]
        told["source"] |= {"database": "cdm.duckdb", "db_schema": "cdm"}
        self._keep("omop", told)

    def _omop_postgres(self, spec: dict[str, Any]) -> None:
        told = self._export("omop")
        load_postgres(self.folder / "omop", os.environ["MEDMM_TEST_OMOP"])
        del told["source"]["path"]
        told["source"] |= {"postgres": {"dsn_from": "MEDMM_TEST_OMOP"}, "db_schema": "cdm"}
        self._keep("omop", told)

    def _fhir(self, spec: dict[str, Any]) -> None:
        self._export("fhir")


EMPTY = {
    "biomarkers": (
        "patient_id",
        "code",
        "name",
        "value",
        "unit",
        "collected_at",
        "available_at",
        "status",
    ),
    "notes": ("patient_id", "written_at", "text"),
}


def _of_field(value: Value) -> tuple[object, ...]:
    """A wide table has no times; the events of the other forms have."""
    return (value.value, value.status, value.text, value.comparator)


@pytest.fixture
def form(tmp_path: Path, request: pytest.FixtureRequest) -> Form:
    if request.param == "omop-postgres":
        request.getfixturevalue("postgres")
    return Form(tmp_path / "form", request.param)


@pytest.fixture
def reference(tmp_path: Path) -> Form:
    return Form(tmp_path / "reference", "csv")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own, without a port: a connection string."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL: install Debian's package `postgresql`")
    binaries = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="medmm-pg-", dir="/tmp"))
    before: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        os.chown(folder, 65534, 65534)
        before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]

    def run(*command: str) -> None:
        done = subprocess.run(
            [*before, *command], capture_output=True, text=True, cwd=folder, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr

    data = folder / "data"
    run(str(binaries / "initdb"), "-D", str(data), "-U", "medmm", "-A", "trust", "-N", "-E", "UTF8")
    options = (
        f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
    )
    run(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    dsn = f"host={folder} user=medmm dbname=postgres"
    os.environ["MEDMM_TEST_OMOP"] = dsn
    yield dsn
    run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)


TYPES = {
    "_id": "integer",
    "_date": "date",
    "_datetime": "timestamp",
    "available_at": "timestamp",
    "_as_number": "numeric",
    "_of_birth": "integer",
}
"""OMOP CDM 5.4 for PostgreSQL, by how its columns' names end; all others are text."""


def load_postgres(folder: Path, dsn: str, types: Mapping[str, str] = TYPES) -> None:
    import psycopg2

    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS cdm CASCADE; CREATE SCHEMA cdm")
        for path in sorted(folder.glob("*.csv")):
            with path.open(encoding="utf-8") as file:
                columns = file.readline().strip().split(",")
                typed = ", ".join(
                    f"{c} {next((t for end, t in types.items() if c.endswith(end)), 'text')}" for c in columns
                )
                cursor.execute(f"CREATE TABLE cdm.{path.stem} ({typed})")
                file.seek(0)
                cursor.copy_expert(f"COPY cdm.{path.stem} FROM STDIN (FORMAT csv, HEADER, NULL '')", file)
    connection.close()
