"""cohort.yaml: what is written means what it says, or one clear line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from medmm.cohort.declare import read_yaml, validated
from medmm.cohort.spec import data_root, load_spec
from medmm.columns import Declared, FieldSpec
from medmm.errors import ConfigError

COHORTS = Path(__file__).parents[2] / "cohorts"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in COHORTS.glob("*/cohort.yaml")))
def test_every_cohort_of_the_project_loads(name: str) -> None:
    spec = load_spec(COHORTS / name)
    assert spec.name == name
    assert spec.root is None
    assert spec.model_validate(spec.model_dump()) == spec


def _edit(small: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node = small.spec
    for parent in parents:
        node = node[parent]
    node[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("recods", {}, "recods is not a key; did you mean 'records'"),
        ("records.fields.age.plausable", [0, 1], "did you mean 'plausible'"),
        ("biomarkers.results.crp.sumary", "last", "did you mean 'summary'"),
        ("biomarkers.undated", {"assume_know": "x"}, "did you mean 'assume_known'"),
        ("outcomes.ill", {"table": "labels.csv"}, "a binary outcome says which word is `positive`"),
        ("records.fields.age", {"role": "imput"}, "'input', 'subgroup'"),
        ("records.fields.age", {"role": "never"}, "says `why`"),
        ("prediction_time", {"day": 0, "from_image": "ct"}, "give one of"),
        ("prediction_time", {"table": "records.csv"}, "needs `table` and `column`"),
        ("prediction_time", {"day": 0}, "map `day`, not `time`"),
        ("prediction_time", {"from_image": "ct"}, "names no image block"),
        ("biomarkers.columns.day", "day", "not both"),
        ("biomarkers.results.crp.role", "outcome", "`input` or `never`"),
        ("biomarkers.results.twin", {"role": "input", "code": "1988-5"}, "two results are found"),
        ("splits", {"stratify": ["il"]}, "did you mean 'ill'"),
        ("splits", {"held_out": 1.0}, "less than 1"),
        ("never_tables", {"records.csv": "because"}, "cannot be both"),
        ("never_columns", {"record.csv": {"x": "because"}}, "did you mean 'records.csv'"),
        ("exclusions", {"young": {"field": "ag", "below": 18}}, "did you mean 'age'"),
        ("exclusions", {"young": {"field": "age"}}, "one condition"),
        ("images", {"records": {"dir": "dicom"}}, "cannot name an image block"),
        ("images", {"ct": {"dir": "dicom", "time": "longitudinal_offset"}}, "needs prediction_time {day"),
        ("records.fields.extra", {"role": "outcome"}, "no outcome reads that column"),
        ("outcomes.ill", {"table": "records.csv", "column": "sex", "positive": "f"}, "given the answer"),
        ("schema_version", 2, "schema_version"),
        ("name", "a b", "name"),
    ],
)
def test_a_mistake_is_named(small: Any, path: str, value: Any, message: str) -> None:
    _edit(small, path, value)
    with pytest.raises(ConfigError) as caught:
        small.load()
    assert message in str(caught.value)
    assert "cohort.yaml" in str(caught.value)


class _One(Declared):
    kind: Literal["one"] = "one"
    first: int = 1


class _Two(Declared):
    kind: Literal["two"] = "two"
    second: int = 1


class _Either(Declared):
    part: Annotated[_One | _Two, Field(discriminator="kind")] = _One()


def test_a_key_inside_a_choice_of_kinds_is_named_as_it_was_written() -> None:
    with pytest.raises(ConfigError, match=r"x: part\.secnd is not a key; did you mean 'second'\?$"):
        validated(_Either, {"part": {"kind": "two", "secnd": 2}}, where="x")
    with pytest.raises(ConfigError, match=r"x: part\.second: input should be a valid integer"):
        validated(_Either, {"part": {"kind": "two", "second": "a"}}, where="x")


def test_every_mistake_is_named_at_once(small: Any) -> None:
    _edit(small, "recods", 1)
    _edit(small, "records.fields.age.kinds", 1)
    with pytest.raises(ConfigError, match=r"records\.fields\.age\.kinds.*recods|recods.*kinds"):
        small.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x\n", "line 1: anchors and aliases"),
        ("name: a\nname: b\n", "stands here twice"),
        ("- 1\n", "no mapping"),
        ("a: [1\n", "not valid YAML"),
        ("!!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("name: x # ? what is it called\ntitle: y # ?\n", "2 questions for you"),
        ("a: " + "x" * (1 << 20), "larger than"),
        (
            "title: x\nname: 2023-13-45\n",
            r"cohort\.yaml is not valid YAML, line 2: this is no valid timestamp",
        ),
        ("name: !!int abc\n", "line 1: this is no valid int"),
        ("name: " + "9" * 6000, "line 1: this is no valid int"),
        ("name: !!int ''\n", "line 1: this is no valid int"),
        ("name: !!bool abc\n", "line 1: this is no valid bool"),
        ("name: [!!timestamp abc]\n", "line 1: this is no valid timestamp"),
        ("!!float a: 1\n", "line 1: this is no valid float"),
    ],
)
def test_hostile_or_unfinished_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cohort.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_spec(path)


def test_a_draft_names_its_questions(tmp_path: Path) -> None:
    path = tmp_path / "cohort.yaml"
    path.write_text("name: x\n# ? which column is the outcome\n")
    with pytest.raises(ConfigError, match=r"1 question for you .* line 2: which column is the outcome"):
        load_spec(path)


def test_a_missing_file_or_text_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(tmp_path)
    (tmp_path / "cohort.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_spec(tmp_path)


def test_the_root_comes_from_the_caller_the_environment_or_the_file(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDMM_ROOT", raising=False)
    with pytest.raises(ConfigError, match="--root"):
        data_root(small.load())
    small.spec["root"] = "."
    spec = small.load()
    assert data_root(spec) == tmp_path
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("MEDMM_ROOT", str(other))
    assert data_root(spec) == other
    assert data_root(spec, tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="no folder"):
        data_root(spec, tmp_path / "absent")


def test_a_question_mark_alone_is_no_question(small: Any) -> None:
    small.spec["title"] = "What is it?"
    assert small.load().title == "What is it?"


def test_a_file_nested_without_end_is_refused_at_once(tmp_path):
    file = tmp_path / "cohort.yaml"
    file.write_text("a: " + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ConfigError, match="nested deeper than 30"):
        read_yaml(file)


@pytest.mark.parametrize("ends", [[110, 18], [5, 5], [float("nan"), 1], [0, float("inf")]])
def test_a_range_goes_from_low_to_high(ends):
    with pytest.raises(ValueError, match=r"the lower first|a finite number"):
        FieldSpec(role="input", kind="number", plausible=ends)


def test_a_date_needs_a_calendar(small: Any) -> None:
    small.spec["prediction_time"] = {"day": 0}
    small.spec["biomarkers"]["columns"] = {"code": "code", "value": "value", "unit": "unit", "day": "taken"}
    small.load()
    small.spec["records"]["fields"]["age"] = {"role": "input", "kind": "date"}
    with pytest.raises(ConfigError, match=r"records\.fields\.age: a date cannot be compared"):
        small.load()
    small.spec["records"]["fields"]["age"] = {"role": "time", "kind": "date"}
    small.load()


def test_labels_may_have_names(small: Any) -> None:
    block = {"dir": "dicom", "kind": "label_map", "labels": [100, 200], "label_names": {100: "kidney"}}
    small.spec["images"] = {"zones": block}
    assert small.load().images["zones"].label_names == {100: "kidney"}
    block["label_names"] = {300: "spleen"}
    with pytest.raises(ConfigError, match=r"`label_names` names \[300\]"):
        small.load()


@pytest.mark.parametrize("key", ["name", "root", "title"])
def test_a_nul_in_a_value_is_named_by_its_line(small: Any, key: str) -> None:
    small.load()
    with (small.root / "cohort.yaml").open("a") as file:
        file.write(f'{key}: "a\\0b"\n')
    with pytest.raises(ConfigError, match=r"line \d+: no value holds a NUL"):
        load_spec(small.root)


def test_a_place_that_is_no_path_is_refused(small: Any, tmp_path: Path) -> None:
    spec = small.load()
    (tmp_path / "round").symlink_to("round")
    for root in ("a\0b", tmp_path / "round"):
        with pytest.raises(ConfigError, match="data root"):
            data_root(spec, Path(root))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(Path("a\0b"))
