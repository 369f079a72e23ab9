"""The tables of a cohort, opened and checked: one engine, and which subjects are asked for."""

# ruff: noqa: S608 - identifiers and literals go through quoted() and literal()
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medmm.cohort import wide
from medmm.cohort.blocks import Records
from medmm.cohort.dates import with_iso_dates
from medmm.cohort.decimals import with_decimal_points
from medmm.cohort.facts import Facts, last_known
from medmm.cohort.moments import Moment
from medmm.cohort.outcomes import labels as read_labels
from medmm.cohort.roles import check_columns, tables_to_read
from medmm.cohort.spec import CohortSpec
from medmm.cohort.timezones import with_local_times
from medmm.columns import FieldSpec, Value
from medmm.errors import DataError
from medmm.sources import open_source
from medmm.sources.canonical import RELATIONS
from medmm.sources.duck import Engine, quoted
from medmm.sources.tables import Table, Where, open_table


class _Part(Protocol):
    """What names a table and says which of its rows count."""

    @property
    def table(self) -> str | None: ...

    @property
    def where(self) -> Where: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """The tables that a join reads.

    Attributes:
        tables: by the name that the specification gives them.
        wanted: the subjects asked for; None for everybody.
        outcomes: whether outcome tables are read.
    """

    engine: Engine
    spec: CohortSpec
    tables: Mapping[str, Table]
    wanted: tuple[str, ...] | None
    outcomes: bool

    @classmethod
    def of(
        cls, engine: Engine, spec: CohortSpec, root: Path, *, subjects: Sequence[str] | None, outcomes: bool
    ) -> Opened:
        """Open the tables and check that every column has a role.

        Raises:
            ConfigError: if a column has none.
            DataError: if a table or a declared column is missing.
        """
        wanted = None if subjects is None else tuple(sorted(set(subjects)))
        engine.put("wanted", {"id": ("VARCHAR", wanted or ())})
        names = tables_to_read(spec, outcomes=outcomes)
        offered = {}
        if spec.source is not None and not RELATIONS.keys().isdisjoint(names):
            offered = open_source(engine, root, spec.source, wanted)
        tables = {name: offered.get(name) or open_table(engine, root, name) for name in names}
        check_columns(spec, tables, outcomes=outcomes)
        # OMOP writes an unknown time of day as midnight, in whatever form
        midnight = spec.source is not None and spec.source.kind == "omop" and spec.source.midnight == "date"
        for name in tables.keys() & spec.dates.keys():
            tables[name] = with_iso_dates(
                tables[name],
                spec.dates[name],
                kept=spec.missing_dates(name),
                midnight_is_a_day=midnight and name in offered,
            )
        # first: local times are text, and with them the types of the file's other columns are gone
        for name in tables.keys() & set(spec.decimal_comma):
            read = spec if outcomes else spec.model_copy(update={"outcomes": {}})
            tables[name] = with_decimal_points(tables[name], read.number_columns(name))
        if spec.timezone is not None:
            for name in tables.keys() & spec.date_columns.keys():
                tables[name] = with_local_times(tables[name], spec.date_columns[name], spec.timezone)
        return cls(engine, spec, tables, wanted, outcomes)

    @property
    def restricted(self) -> bool:
        """Whether only some subjects are asked for."""
        return self.wanted is not None

    def listed(self) -> list[str]:
        """Return the ids of the subject table, sorted."""
        return self._ids(self.table(self.spec.subjects), self.spec.subjects.id, unique=True)

    def everywhere(self) -> set[str]:
        """Return the ids of every table that is read; of those asked for, when only some are.

        Where everybody is joined, the ids of the results come out of their join (``Results.others``).
        """
        spec, subject = self.spec, self.spec.subjects.id
        wide_tables = [(self.table(spec.subjects), subject)]
        if spec.prediction_time.table:
            wide_tables.append((self.table(spec.prediction_time), subject))
        if spec.records:
            wide_tables.append((self.tables[spec.records.table], spec.records.id or subject))
        if self.outcomes:
            wide_tables += [(self.table(o), o.id or subject) for o in spec.outcomes.values()]
        events = spec.records.events if spec.records else None
        long_tables = [
            (self.table(part), part.columns.id or subject)
            for part in (spec.biomarkers, spec.notes, events)
            if part is not None and part.table in self.tables
        ]
        found = {
            i for table, column in dict.fromkeys(wide_tables) for i in self._ids(table, column, unique=True)
        }
        if self.wanted is not None and found.issuperset(self.wanted):
            return found  # one patient is not worth a pass over every result
        if spec.biomarkers and not self.restricted:
            joined = (self.table(spec.biomarkers), spec.biomarkers.columns.id or subject)
            long_tables = [one for one in long_tables if one != joined]
        return found | {
            i for table, column in dict.fromkeys(long_tables) for i in self._ids(table, column, unique=False)
        }

    def prediction_times(self, listed: Sequence[str]) -> tuple[dict[str, Moment], Counter[str]]:
        """Return the prediction time of each subject that has one, and how many came from where."""
        time = self.spec.prediction_time
        if time.day is not None:
            return dict.fromkeys(listed, Moment(time.day)), Counter({f"day {time.day}": len(listed)})
        if not (time.table and time.column):
            return {}, Counter()
        found = wide.moments(
            self.engine,
            self.table(time),
            self.spec.subjects.id,
            time.column,
            whole_days=time.resolution == "day",
            restricted=self.restricted,
        )
        known = {subject: found[subject] for subject in listed if subject in found}
        return known, Counter({time.column: len(known)})

    def fields(self) -> dict[str, FieldSpec]:
        """Return the record fields that are read: inputs, subgroups and what an exclusion looks at."""
        if self.spec.records is None:
            return {}
        looked_at = {exclusion.field for exclusion in self.spec.exclusions.values()}
        return {
            name: field
            for name, field in self.spec.records.fields.items()
            if field.role in ("input", "subgroup") or name in looked_at or name == self.spec.splits.groups
        }

    def records(self, predictions: Mapping[str, Moment]) -> tuple[dict[str, dict[str, Value]], wide.Fields]:
        """Return each subject's row of record values, and what could not be read."""
        reader = wide.Fields(self.fields(), same_day=self.spec.same_day.results == "known")
        records = self.spec.records
        if records is None or not reader.fields:
            return {}, reader
        columns = {name: field.age_from or name for name, field in reader.fields.items() if not field.event}
        found = wide.cells(
            self.engine,
            self.tables[records.table],
            records.id or self.spec.subjects.id,
            list(columns.values()),
            restricted=self.restricted,
        )
        facts = self._facts(records, reader.fields, predictions)
        empty = ("",) * len(columns)
        return {
            s: reader.row(dict(zip(columns, found.get(s, empty), strict=True)), facts.get(s, {}), moment)
            for s, moment in predictions.items()
        }, reader

    def _facts(
        self, records: Records, fields: Mapping[str, FieldSpec], predictions: Mapping[str, Moment]
    ) -> Facts:
        sought = {name: field for name, field in fields.items() if field.event}
        if not sought or records.events is None:
            return {}
        return last_known(
            self.engine,
            records.events,
            self.table(records.events),
            records.events.columns.id or self.spec.subjects.id,
            fields=sought,
            predictions=predictions,
            same_day=self.spec.same_day.results == "known",
        )

    def labels(self) -> dict[str, dict[str, float]]:
        """Return, per outcome, the label of every subject that has one."""
        if not self.outcomes:
            return {}
        return {
            name: read_labels(
                wide.cells(
                    self.engine,
                    self.table(outcome),
                    outcome.id or self.spec.subjects.id,
                    outcome.columns(name),
                    restricted=self.restricted,
                ),
                name,
                outcome,
            )
            for name, outcome in self.spec.outcomes.items()
        }

    def crosswalk(self) -> dict[tuple[str, str], str] | None:
        """Return (issuer, PatientID) → subject id, or None where PatientID is the subject id.

        Raises:
            DataError: if one PatientID leads to several subjects.
        """
        walk = self.spec.crosswalk
        if walk is None:
            return None
        table = self.tables[walk.table]
        issuer = quoted(walk.issuer) if walk.issuer else "''"
        rows = self.engine.rows(
            f"SELECT DISTINCT coalesce(trim({issuer}), ''), trim({quoted(walk.patient_id)}),"
            f" trim({quoted(walk.id)}) FROM {table.relation}"
            f" WHERE trim({quoted(walk.patient_id)}) <> '' AND trim({quoted(walk.id)}) <> ''",
            what=table.name,
        )
        found = {(issuer, patient_id): subject for issuer, patient_id, subject in rows}
        if len(found) < len(rows):
            raise DataError(
                f"{table.name}: {len(rows) - len(found)} PatientIDs lead to several subjects; decide which"
            )
        return found

    def table(self, part: _Part) -> Table:
        """Return the table of a part of the specification, and of its rows those that count."""
        return self.tables[part.table or ""].where(part.where)

    def _ids(self, table: Table, column: str, *, unique: bool) -> list[str]:
        return wide.ids(self.engine, table, column, restricted=self.restricted, unique=unique).found
