"""Many series in processes of their own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from medmm.dicom import certificate_counts, certificate_rows, load_many, load_series, scan
from medmm.dicom.certificate import Certificate


def certify(loaded) -> Certificate:
    return loaded.certificate


def certify_unless(path: Path, loaded) -> Certificate:
    """Die the hard way on one series, as a decoder might."""
    if path in loaded.files and loaded.status == "used":
        os._exit(9)
    return loaded.certificate


@pytest.fixture
def folder(scanner):
    """Five series: four load, the middle one has a gap."""
    for number in range(5):
        scanner.series = generate_uid()
        places = (0, 2.5, 7.5, 10) if number == 2 else (0, 2.5, 5)
        for z in places:
            scanner.slice(z, f"{number}/{z}.dcm")
    return scanner.folder


def series_of(folder: Path) -> list[list[Path]]:
    return [[folder / file for file in entry.files] for entry in scan(folder).series]


def test_processes_give_what_one_process_gives_in_the_order_asked_for(folder):
    series = series_of(folder)
    alone = list(load_many(series, certify, processes=1))
    together = list(load_many(series, certify, processes=2))
    assert together == alone
    assert sorted(c.status for results in alone for c in results) == ["refused"] + ["used"] * 4
    assert list(load_many(series[::-1], certify, processes=2)) == alone[::-1]
    resampled = [c for results in load_many(series, certify, resample=True) for c in results]
    assert {certificate.status for certificate in resampled} == {"used"}


def test_a_worker_that_dies_costs_its_own_series_alone(folder):
    series = series_of(folder)
    expected = list(load_many(series, certify, processes=1))
    victim = max(number for number in range(5) if expected[number][0].status == "used")
    results = list(load_many(series, partial(certify_unless, series[victim][0]), processes=2))
    (dead,) = results.pop(victim)
    assert (dead.status, dead.reason, dead.files_refused) == ("refused", "resource_limit", 3)
    del expected[victim]
    assert results == expected


def test_the_certificate_table_does_not_depend_on_the_order_of_files(folder):
    certificates = [result.certificate for result in load_series(folder)]
    table = certificate_rows(certificates, b"k" * 32)
    assert certificate_rows(reversed(certificates), b"k" * 32) == table
    assert set(table["status"]) == {"used", "refused"}
    assert {len(column) for column in table.values()} == {5}
    text = repr(table)
    assert not any(c.series_uid in text or c.study_uid in text for c in certificates)
    assert certificate_counts(certificates) == {
        "refused": 1,
        "refused.missing_slices": 1,
        "set_aside": 0,
        "used": 4,
    }
    assert list(certificate_rows([], b"k")) == list(table)


def test_the_certificate_table_goes_into_parquet(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = certificate_rows((result.certificate for result in load_series(folder)), b"k" * 32)
    parquet.write_table(pyarrow.table(table), tmp_path / "certificates.parquet")
    assert parquet.read_table(tmp_path / "certificates.parquet").to_pydict() == table
