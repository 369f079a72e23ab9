"""Instants in UTC and local times of one site are compared by the clock of the site, and by no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from medmm.cohort.timezones import with_local_times
from medmm.errors import ConfigError, DataError
from medmm.sample import Absence, SeriesSource
from medmm.sources.duck import Engine
from medmm.sources.tables import open_table
from tests.cohort.test_images import write_series

PARIS = "Europe/Paris"


def crp(small: Any, *taken: str) -> tuple[Any, Any]:
    """Return the last result of the first patient, seen at 12:00 on the first of March, and its offset."""
    small.results([("001", str(place), "mg/L", time) for place, time in enumerate(taken)])
    found = small.values()["crp"]
    return found.value, found.offset_days


def test_utc_and_local_times_are_compared_by_the_clock_of_the_site(small: Any) -> None:
    small.spec["timezone"] = PARIS
    # 11:30 UTC is 12:30 in Paris, after the prediction; 10:30 UTC is half an hour before it
    assert crp(small, "2024-03-01T11:30:00Z", "2024-03-01 09:00") == (1, pytest.approx(-3 / 24))
    assert crp(small, "2024-03-01T10:30:00Z", "2024-03-01 09:00") == (0, pytest.approx(-0.5 / 24))
    assert crp(small, "2024-03-01T12:30:00+03:00") == (0, pytest.approx(-1.5 / 24))


def test_without_a_timezone_they_are_refused_and_the_message_names_it(small: Any) -> None:
    with pytest.raises(DataError, match=r"results.csv: times with and without a UTC offset.*`timezone`"):
        crp(small, "2024-03-01T11:30:00Z", "2024-03-01 09:00")


def test_a_zone_that_does_not_exist_is_refused(small: Any) -> None:
    small.spec["timezone"] = "Europe/Lyon"
    with pytest.raises(ConfigError, match="'Europe/Lyon' is no time zone"):
        small.load()


def test_every_instant_is_what_the_clock_on_the_wall_showed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [
        datetime(2023, 1, 1, tzinfo=UTC) + timedelta(minutes=int(m)) for m in rng.integers(0, 900_000, 300)
    ]
    back = [datetime(2024, 10, 27, tzinfo=UTC) + timedelta(minutes=10 * step) for step in range(18)]
    instants = drawn + back
    rows = "".join(f"{n},{instant:%Y-%m-%dT%H:%M:%SZ}\n" for n, instant in enumerate(instants))
    (tmp_path / "t.csv").write_text(f"id,at\n{rows}900,2024-10-27 02:30\n901,soon\n902,\n903,2024-10-27\n")
    with Engine() as engine:
        table = with_local_times(open_table(engine, tmp_path, "t.csv"), ["at"], PARIS)
        found = dict(engine.rows(f'SELECT id, "at" FROM {table.relation}'))
    for place, instant in enumerate(instants):
        local = instant.astimezone(ZoneInfo(PARIS))
        twice = local.utcoffset() != local.replace(fold=1 - local.fold).utcoffset()
        told = f"{local:%Y-%m-%d}" if twice else f"{local:%Y-%m-%d %H:%M:%S}"
        assert found[str(place)] == told
    assert [found[str(n)] for n in (900, 901, 903)] == ["2024-10-27 02:30", "soon", "2024-10-27"]
    assert not found["902"]


@pytest.mark.parametrize(
    ("acquired", "zone", "known"),
    [
        ("20240301103000", "+0000", True),
        ("20240301113000", "+0000", False),
        ("20240301113000", "", True),
        ("20240301123000+0300", "", True),
    ],
)
def test_a_series_that_says_its_offset_is_compared_by_the_clock_of_the_site(
    small: Any, acquired: str, zone: str, known: bool
) -> None:
    small.spec |= {"timezone": PARIS, "images": {"ct": {"dir": "dicom", "modality": "CT"}}}
    tags = {"AcquisitionDateTime": acquired} | ({"TimezoneOffsetFromUTC": zone} if zone else {})
    write_series(small.root / "dicom", "001", StudyDate=None, **tags)
    source = next(p for p in small.link().patients if p.subject_id == "001").sources["ct"]
    assert isinstance(source, SeriesSource) if known else source == Absence("later")
