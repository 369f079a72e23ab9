"""Score files: equal numbers after a round trip, safe cells, private and atomic files."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmm.errors import DataError, OutputError
from medmm.outputs.table import from_json, read_scores, to_json, write_scores
from medmm.sample import Outcome, Score

SUFFIXES = (".parquet", ".csv", ".jsonl")

words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)
names = st.from_regex(r"[A-Za-z=+@-][A-Za-z0-9_ ]{0,8}", fullmatch=True).filter(
    lambda name: name != "modality"
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def outcome() -> st.SearchStrategy[Outcome]:
    return st.builds(
        Outcome,
        kind=st.just("binary"),
        logit=numbers,
        calibrated_logit=numbers,
        probability=st.floats(0, 1),
        decision=words,
    )


def score() -> st.SearchStrategy[Score]:
    return st.builds(
        Score,
        subject_id=words,
        status=st.sampled_from(["scored", "refused"]),
        reason=words,
        outcomes=st.dictionaries(names, outcome(), max_size=2),
        modalities=st.dictionaries(names, words.filter(bool), max_size=3),
        bundle_sha256=words,
        as_of_days=st.dictionaries(words, st.none() | numbers, max_size=3),
        undated=st.integers(0, 9),
        warnings=st.lists(words, max_size=2).map(tuple),
    )


def told_apart(scores: list[Score]) -> bool:
    """Whether no two names of outcomes, or of modalities, differ in capitals only."""
    kinds = [{n for s in scores for n in s.outcomes}, {n for s in scores for n in s.modalities}]
    return all(len({name.casefold() for name in kind}) == len(kind) for kind in kinds)


def one(subject_id: str = "007", logit: float = -1.25, **changes: object) -> Score:
    values: dict[str, object] = {
        "subject_id": subject_id,
        "status": "scored",
        "reason": "",
        "outcomes": {"deterioration": Outcome("binary", logit, -1.1, 0.25, "above")},
        "modalities": {"ct": "used", "records": "used"},
        "bundle_sha256": "ab" * 32,
        "as_of_days": {"crp": -0.5, "psa": None},
    }
    return Score(**(values | changes))


@given(score())
def test_json_round_trip_is_exact(value: Score) -> None:
    assert from_json(to_json(value)) == value
    assert "\n" not in to_json(value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(scores=st.lists(score(), max_size=4).filter(told_apart))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_is_exact(suffix: str, scores: list[Score], tmp_path: Path) -> None:
    path = write_scores(scores, tmp_path / f"scores{suffix}")
    assert read_scores(path) == scores


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_refused_patient_has_a_row(suffix: str, tmp_path: Path) -> None:
    refused = one(
        "008", status="refused", reason="no_modality", outcomes={}, modalities={"ct": "missing_slices"}
    )
    path = write_scores([one(), refused], tmp_path / f"s{suffix}")
    assert read_scores(path)[1] == refused
    if suffix == ".csv":
        assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_file_is_private_and_alone(suffix: str, tmp_path: Path) -> None:
    path = write_scores([one()], tmp_path / "new" / f"s{suffix}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_earlier_file(suffix: str, tmp_path: Path) -> None:
    path = write_scores([one()], tmp_path / f"s{suffix}")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="not finite"):
        write_scores([one(), one(logit=float("nan"))], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_csv_cells_never_start_a_formula(tmp_path: Path) -> None:
    hostile = one("=cmd|' /C calc'!A0", reason="+1", modalities={"@ct": "-used"}, warnings=("=1",))
    path = write_scores([hostile], tmp_path / "s.csv")
    with path.open(newline="") as file:
        header, cells = csv.reader(file)
    texts = [cell for name, cell in zip(header, cells, strict=True) if not name.endswith("logit")]
    assert not [cell for cell in (*header, *texts) if cell.startswith(("=", "+", "-", "@"))]
    assert cells[header.index("deterioration.logit")] == "-1.25"
    assert read_scores(path) == [hostile]


def test_numbers_are_numbers_in_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    write_scores([one("007")], tmp_path / "s.parquet")
    table = parquet.read_table(tmp_path / "s.parquet")
    assert str(table.schema.field("deterioration.probability").type) == "double"
    assert table.column("subject_id").to_pylist() == ["007"]


@pytest.mark.parametrize("target", ["file/scores.csv", "folder.csv"])
def test_an_unwritable_place_is_one_clear_line(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"cannot be written \(.*\); name another folder") as caught:
        write_scores([one("canary-id")], tmp_path / target)
    assert caught.value.exit_code == 8
    assert "canary-id" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder.csv"]


def test_a_place_that_even_root_cannot_write_is_refused() -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_scores([one()], Path("/proc/scores.csv"))


def test_ten_thousand_rows_keep_their_order(tmp_path: Path) -> None:
    scores = [one(f"{number:06d}", number / 7) for number in range(10_000)]
    assert read_scores(write_scores(scores, tmp_path / "s.parquet")) == scores


def test_another_suffix_is_refused_with_the_three(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.parquet, \.csv, \.jsonl"):
        write_scores([one()], tmp_path / "s.xlsx")


@pytest.mark.parametrize("name", ["a.b", "", "modality"])
def test_a_name_that_cannot_head_a_column_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot head a column"):
        write_scores([one(outcomes={name: Outcome("binary", 0.0, 0.0, 0.5)})], tmp_path / "s.csv")


@pytest.mark.parametrize("suffix", SUFFIXES[:2])
def test_names_that_differ_in_capitals_only_are_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="capitals"):
        write_scores([one(modalities={"CT": "used", "ct": "used"})], tmp_path / f"s{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_a_data_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(path)
    path.write_bytes(b"a,b\n\xff,2,3\n")
    with pytest.raises(DataError, match="holds no scores"):
        read_scores(path)
