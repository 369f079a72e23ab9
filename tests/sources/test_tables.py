"""Tables on disk: read as text, whatever wrote them, or refused without quoting them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmm.errors import ConfigError, DataError, OutputError
from medmm.sources.duck import Engine, literal, quoted, read_parquet, write_parquet
from medmm.sources.tables import open_table


def _read(root: Path, name: str) -> tuple[tuple[str, ...], list[tuple[str | None, ...]]]:
    with Engine(threads=1) as engine:
        table = open_table(engine, root, name)
        return table.columns, sorted(engine.rows(f"SELECT * FROM {table.relation}", what=name), key=repr)


@pytest.mark.parametrize(
    ("raw", "columns", "rows"),
    [
        (b"id,v\n007,1.50\n", ("id", "v"), [("007", "1.50")]),
        (b'\xef\xbb\xbfid;v\r\n1;"a;b"\r\n', ("id", "v"), [("1", "a;b")]),
        ("id\tnäme\n1\tJosé\n".encode("latin-1"), ("id", "näme"), [("1", "José")]),
        ("id,v\n1,µg\n".encode(), ("id", "v"), [("1", "µg")]),
        (b'id,v\n1,"say ""no"""\n2,\n', ("id", "v"), [("1", 'say "no"'), ("2", None)]),
        (b'id,v\n1,"two\nlines"\n', ("id", "v"), [("1", "two\nlines")]),
        (b"id,v\n", ("id", "v"), []),
        (b'id,"a ""b"" c"\n1,2\n', ("id", 'a "b" c'), [("1", "2")]),
    ],
)
def test_reads_every_cell_as_the_text_it_was(
    tmp_path: Path, raw: bytes, columns: tuple[str, ...], rows: list[tuple[str | None, ...]]
) -> None:
    (tmp_path / "t.csv").write_bytes(raw)
    assert _read(tmp_path, "t.csv") == (columns, rows)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"id,v\n1,2\nsecret\n", "line 3: this line has not as many cells"),
        (b"id,id\n1,2\n", "repeats a column name"),
        (b'id,v\n1,"secret\n', "line 2: a quote is not closed"),
        (b"id,v\r\n1,secret\n2,3\r\n", "line endings are mixed"),
        (b"id,\n1,2\n", "leaves one empty"),
        ("id,v\n1,2\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_refuses_a_malformed_table_without_quoting_it(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, "t.csv")
    assert "secret" not in str(caught.value)


def test_a_missing_file_or_column_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv is not in .* --root"):
        _read(tmp_path, "t.csv")
    (tmp_path / "t.csv").write_text("patient_id,v\n1,2\n")
    with Engine() as engine, pytest.raises(DataError, match="did you mean 'patient_id'"):
        open_table(engine, tmp_path, "t.csv").require(["patientid"], why="id")


def test_a_file_of_another_kind_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="no kind of table"):
        _read(tmp_path, "t.xlsx")


PIECES = [b"id", b",", b'"', b"\n", b"\r\n", b"\x00", b";", b"\xff", b"1", b"'", b"\t", b"\xef\xbb\xbf", b" "]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=20))
def test_any_bytes_are_a_table_or_a_refusal(tmp_path: Path, pieces: list[bytes]) -> None:
    (tmp_path / "t.csv").write_bytes(b"id,v\n" + b"".join(pieces))
    try:
        columns, rows = _read(tmp_path, "t.csv")
    except DataError:
        return
    assert all(len(row) == len(columns) for row in rows)


def test_a_table_stays_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "t.csv").write_text("id\n1\n")
    with pytest.raises(ConfigError, match="leads out"):
        _read(tmp_path / "data", "../t.csv")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"secret")
    with pytest.raises(DataError, match="cannot be read as a table") as caught:
        _read(tmp_path, "t.parquet")
    assert "secret" not in str(caught.value)


def test_parquet_columns_become_text(tmp_path: Path) -> None:
    write_parquet({"id": ["007"], "n": [1], "x": [0.1], "b": [True], "none": [None]}, tmp_path / "t.parquet")
    assert _read(tmp_path, "t.parquet") == (
        ("id", "n", "x", "b", "none"),
        [("007", "1", "0.1", "true", None)],
    )


CELL = st.one_of(st.none(), st.text(max_size=8).filter(lambda t: "\x00" not in t))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(CELL, min_size=1, max_size=5),
    number=st.floats(allow_nan=False),
    whole=st.integers(-(2**60), 2**60),
)
def test_what_is_written_is_read_back(
    tmp_path: Path, text: list[str | None], number: float, whole: int
) -> None:
    columns = {"t": text, "n": [number] * len(text), "w": [whole] * len(text)}
    path = tmp_path / "out.parquet"
    write_parquet(columns, path)
    assert read_parquet(path) == columns
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


def test_an_unwritable_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name another folder"):
        write_parquet({"a": [1]}, tmp_path / "absent" / "out.parquet")


def test_names_and_texts_cannot_leave_their_quotes(tmp_path: Path) -> None:
    hostile = 'x"; DROP TABLE t; --'
    with Engine() as engine:
        engine.put(hostile, {hostile: ("VARCHAR", ["it's"])})
        found = engine.rows(
            f"SELECT {quoted(hostile)} FROM {quoted(hostile)} WHERE {literal('it' + chr(39) + 's')} <> ''"
        )
    assert found == [("it's",)]


def test_a_name_that_is_no_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "round.csv").symlink_to("round.csv")
    for name, why in (("a\0b.csv", "no path may hold"), ("round.csv", "in a circle|Too many levels")):
        with pytest.raises(ConfigError, match=why), Engine(threads=1) as engine:
            open_table(engine, tmp_path, name)


@pytest.mark.parametrize(
    ("cell", "message"), [(200_000, "longer than 131072"), (2_000_000, "longer than 1 MB")]
)
def test_a_bottomless_header_is_refused(tmp_path: Path, cell: int, message: str) -> None:
    (tmp_path / "t.csv").write_text("id," + "x" * cell + "\n1,2\n")
    with pytest.raises(DataError, match=message):
        _read(tmp_path, "t.csv")


def test_the_end_of_memory_is_not_called_a_broken_file() -> None:
    with (
        Engine(memory_mb=8, threads=1) as engine,
        pytest.raises(DataError, match=r"^results\.csv: memory.*TMPDIR"),
    ):
        engine.rows("SELECT len(list(range::VARCHAR)) FROM range(1000000)", what="results.csv")
