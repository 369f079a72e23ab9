"""What must hold of every form: order, copies, ties and whatever is later change nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from medmm.cohort.link import link
from medmm.cohort.spec import load_spec
from medmm.cohort.synthetic.tables import RESULTS
from medmm.sources.duck import Engine, literal

NOW = "2024-03-01 12:00:00"
PEOPLE = ("007", "7", "0070")
"""Three people: a leading zero is part of a name."""
SERVICE = pytest.param("omop-postgres", marks=[pytest.mark.service, pytest.mark.xdist_group("postgres")])
FORMS = ("csv", "parquet", "meds", "omop", "omop-duckdb", "fhir", SERVICE)
few = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

BEFORE = st.sampled_from(
    [
        "2024-02-28 23:59:59",
        "2024-02-29 00:00:01",  # a leap day
        "2024-02-29 08:00:00",
        "2023-03-01 12:00:00",
        "2024-03-01 11:59:59",
        NOW,
        "",
    ]
)
AFTER = st.sampled_from(["2024-03-01 12:00:01", "2024-03-02 00:00:01", "2032-02-29 08:00:00"])
STATUS = st.sampled_from(["final", "corrected", "preliminary", "entered-in-error"])
CELL = st.sampled_from(["1", "2.5", "85.70", "<3", ">=90", "12.3 H", "1234.5", "haemolysed", "", "5000"])
KIND = st.one_of(
    st.tuples(st.just("1988-5"), st.sampled_from(["mg/L", "mg/dL", "K/uL"])),
    st.tuples(st.just("2345-7"), st.sampled_from(["mg/dL", "mmol/L", ""])),
    st.tuples(st.just("20578-1"), st.just("ug/mL")),
)


GOOD = [
    dict(zip(RESULTS, ("7", code, "", "3", unit, "2024-02-29 09:00:00", "", "final"), strict=True))
    for code, unit in (("1988-5", "mg/L"), ("2345-7", "mg/dL"))
]
"""A cohort none of whose results can be read is refused; these can."""


@st.composite
def results(draw: Any, *, later: bool = False) -> dict[str, str]:
    code, unit = draw(KIND)
    taken, ready = draw(BEFORE), ""
    if later and draw(st.booleans()):
        taken = draw(AFTER)
    elif later:
        taken, ready = draw(BEFORE), draw(AFTER)
    cells = (draw(st.sampled_from(PEOPLE)), code, "name", draw(CELL), unit, taken, ready, draw(STATUS))
    return dict(zip(RESULTS, cells, strict=True))


def _tables(rows: list[dict[str, str]], notes: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    records = [
        {"patient_id": p, "assessed_at": NOW, "site": "north", "age": "50", "sex": "male", "frailty": "fit"}
        | {"smoking": "former", "diabetes": "no", "immunosuppressed": "", "weight_kg": "80.5"}
        for p in PEOPLE
    ]
    labels = [
        {"patient_id": p, "deterioration": str(n % 2), "pneumonia": str(n % 2), "deteriorated_at": ""}
        for n, p in enumerate(PEOPLE)
    ]
    return {"records": records, "biomarkers": rows, "notes": notes, "labels": labels}


def _small(spec: dict[str, Any]) -> None:
    del spec["records"]["fields"]["discharge_code"]


@pytest.mark.parametrize("form", FORMS, indirect=True)
@few
@given(
    rows=st.lists(results(), min_size=3, max_size=14),
    later=st.lists(results(later=True), max_size=4),
    seed=st.integers(0, 999),
)
def test_shuffled_copied_and_followed_by_more_it_is_the_same_cohort(
    form: Any, reference: Any, rows: list[dict[str, str]], later: list[dict[str, str]], seed: int
) -> None:
    chance = random.Random(seed)
    rows = [*rows, *GOOD]
    note = {"patient_id": "7", "written_at": "2024-02-29 08:00:00", "text": 'first "note"\nof two lines'}
    notes = [note, note | {"text": "second, at the same time"}]
    reference.edits, form.edits = [_small], [_small]
    reference.write(_tables(rows, notes))
    copies = chance.sample(rows, 2)
    more = [*rows, *copies, *later]
    after = note | {"written_at": "2024-03-01 12:00:01", "text": "later"}
    form.write(_tables(chance.sample(more, len(more)), [notes[1], after, notes[0]]))
    told = form.told()
    assert told["patients"] == reference.told()["patients"]
    assert told["flow"][1].get("later", 0) == sum(row["code"] != "20578-1" for row in later)
    assert told["flow"][3] == len(more)
    assert set(told["patients"]) == set(PEOPLE)


INSTANT = st.builds(
    lambda base, minutes: base + timedelta(minutes=minutes),
    st.sampled_from([datetime(2024, 3, 31, 1, tzinfo=UTC), datetime(2024, 10, 27, 1, tzinfo=UTC)]),
    st.integers(-150, 150),
)
"""Around both changes of the clocks in Europe, 2024."""
OFFSETS = ("+00:00", "+01:00", "+02:00", "-05:30")


def _written(instant: datetime, offset: str) -> str:
    sign = -1 if offset[0] == "-" else 1
    shift = sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
    return f"{instant + shift:%Y-%m-%d %H:%M:%S}{offset}"


@few
@given(
    now=INSTANT,
    events=st.lists(st.tuples(INSTANT, st.sampled_from(OFFSETS)), min_size=1, max_size=6),
)
def test_an_instant_is_the_same_in_whatever_zone_it_is_written(
    reference: Any, now: datetime, events: list[tuple[datetime, str]]
) -> None:
    def rows(of: Any) -> list[dict[str, str]]:
        cells = [("7", "1988-5", "", str(n + 1), "mg/L", of(*e), "", "final") for n, e in enumerate(events)]
        return [dict(zip(RESULTS, row, strict=True)) for row in cells]

    tables = _tables(rows(_written), [])
    for row in tables["records"]:
        row["assessed_at"] = _written(now, "+02:00")
    reference.edits = [_small]
    reference.write(tables)
    mixed = reference.told()["patients"]
    reference.write(tables | {"biomarkers": rows(lambda instant, _: _written(instant, "+00:00"))})
    assert reference.told()["patients"] == mixed
    _as_timestamps(reference)
    assert reference.told()["patients"] == mixed
    known = {instant for instant, _ in events if now - timedelta(days=7) <= instant <= now}
    offsets = mixed["7"][2].offset_days if known else ()
    assert offsets == tuple(sorted((one - now) / timedelta(days=1) for one in known))


def _as_timestamps(form: Any) -> None:
    """Turn the results into Parquet with a column of instants."""
    target = form.folder / "biomarkers.parquet"
    target.unlink(missing_ok=True)
    with Engine(threads=1) as engine:
        read = f"read_csv({literal(str(form.folder / 'biomarkers.csv'))}, all_varchar=true, header=true)"
        engine.copy(
            f"SELECT * REPLACE (collected_at::TIMESTAMPTZ AS collected_at) FROM {read}",
            target,
            "FORMAT parquet",
        )
    path = form.folder / "cohort.yaml"
    path.write_text(path.read_text().replace("biomarkers.csv", "biomarkers.parquet"))


@few
@given(now=INSTANT, events=st.lists(INSTANT, min_size=1, max_size=6))
def test_local_time_never_lets_anything_later_in_not_even_when_clocks_go_back(
    tmp_path_factory: pytest.TempPathFactory, now: datetime, events: list[datetime]
) -> None:
    folder = tmp_path_factory.mktemp("fhir")
    about = {"subject": {"reference": "Patient/7"}, "status": "final"}
    lines: list[dict[str, Any]] = [
        {"resourceType": "Patient", "id": "7"},
        {"resourceType": "Encounter", "class": {"code": "IMP"}, "period": {"start": now.isoformat()}} | about,
    ]
    for n, instant in enumerate(events):
        value = {"valueQuantity": {"value": n, "code": "mg/L"}, "effectiveDateTime": instant.isoformat()}
        code = {"coding": [{"system": "http://loinc.org", "code": "1988-5"}]}
        lines.append({"resourceType": "Observation", "code": code} | value | about)
    (folder / "all.ndjson").write_text("\n".join(_json(line) for line in lines))
    index = {"table": "events", "where": {"code": "IMP"}}
    spec = {
        "name": "clocks",
        "source": {"kind": "fhir", "timezone": "Europe/Berlin"},
        "subjects": index | {"id": "subject_id"},
        "prediction_time": index | {"column": "time", "resolution": "second"},
        "biomarkers": {
            "where": {"kind": "Observation"},
            "results": {"crp": {"role": "input", "code": "1988-5", "unit": "mg/L", "series": True}},
        },
    }
    (folder / "cohort.yaml").write_text(yaml.safe_dump(yaml.safe_load(_json(spec))))
    joined = link(load_spec(folder), folder, key=b"k" * 32)
    source = joined.patients[0].sources["series"]
    used = {int(value) for value in getattr(source, "value", ())}
    assert all(events[n] <= now for n in used)


def _json(value: object) -> str:
    import json

    return json.dumps(value)
