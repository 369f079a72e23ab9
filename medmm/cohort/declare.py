"""Reading what a person wrote in YAML: safely, and with an answer to every misspelt key."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medmm.errors import ConfigError, told

MAX_YAML_BYTES = 1 << 20
"""A declaration is written by hand; a megabyte of it is an accident or an attack."""

Model = TypeVar("Model", bound=BaseModel)


MAX_DEPTH = 30
"""Levels of nesting that are read; the reader's time grows with the square of the depth."""

QUESTION = re.compile(r"#\s*\?\s*(.*)$")
"""How a draft marks a line that a person must decide."""


class _Loader(yaml.CSafeLoader):
    """The safe loader; a duplicate key is an error, and so is a value that is not what its form says."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            # what the constructors of PyYAML raise for month 13, `!!int abc`, `!!bool abc`, `!!timestamp abc`
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this is no valid {kind}; repair it, or quote it as text", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice, or is no word", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """Read one YAML mapping; return it and its text.

    Safe loader only, at most :data:`MAX_YAML_BYTES`, no anchors or aliases, no duplicate keys.

    Raises:
        ConfigError: if the file cannot be read, or is not such a mapping.
    """
    try:
        large = path.stat().st_size > MAX_YAML_BYTES
        text = "" if large else path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {told(error)}; name an existing file") from error
    if large:
        raise ConfigError(f"{path} is larger than {MAX_YAML_BYTES} bytes; a declaration never is")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ConfigError(f"{path} is nested deeper than {MAX_DEPTH} levels; a declaration never is")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError(f"{path}, line {line}: anchors and aliases are not read; write it out")
            if isinstance(event, yaml.ScalarEvent) and "\0" in event.value:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError(f"{path}, line {line}: no value holds a NUL; delete it")
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML{_where(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds no mapping of keys; see cohorts/synthetic for an example")
    return loaded, text


def _where(error: yaml.YAMLError) -> str:
    mark: Any = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ""


def refuse_questions(path: Path, text: str) -> None:
    """Refuse a draft in which a person has not yet answered a marked question.

    Raises:
        ConfigError: naming each question and its line.
    """
    questions = [
        f"line {number}: {found.group(1) or 'decide'}"
        for number, line in enumerate(text.splitlines(), 1)
        if (found := QUESTION.search(line))
    ]
    if questions:
        count = f"{len(questions)} question{'s' if len(questions) > 1 else ''}"
        raise ConfigError(
            f"{path} is a draft with {count} for you (answer, then delete the mark `# ?`): "
            + "; ".join(questions)
        )


def validated(model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Validate ``values`` as ``model``; every mistake of it is named in one error.

    Args:
        model: a pydantic model that forbids unknown keys.
        values: what the YAML said.
        where: the file, for the message.

    Raises:
        ConfigError: naming each key that is unknown ("did you mean …"), missing or wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_line(model, item) for item in error.errors(include_url=False, include_input=False)]
        raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from None


def did_you_mean(word: str, known: Iterator[str] | list[str]) -> str:
    """Return "; did you mean 'x'?", or the known words when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(words[:20])}" if words else ""


def _line(model: type[BaseModel], item: Any) -> str:
    loc = item["loc"]
    if item["type"] == "extra_forbidden":
        named, inside = _walk(model, loc[:-1])
        path = ".".join((*named, str(loc[-1])))
        return f"{path} is not a key{did_you_mean(str(loc[-1]), _keys(inside))}"
    path = ".".join(_walk(model, loc)[0]) or "the file"
    if item["type"] == "missing":
        return f"{path} is missing"
    message = item["msg"].removeprefix("Value error, ")
    return f"{path}: {message[:1].lower()}{message[1:]}"


def _walk(model: Any, loc: tuple[Any, ...]) -> tuple[tuple[str, ...], Any]:
    """Return the keys of ``loc`` as a person wrote them, and the annotation that they lead to.

    Pydantic puts the tried member of a union into the location ("AssumeKnown", "literal['refuse']", or the
    tag of a discriminated one); such a part only narrows the union down.
    """
    named: list[str] = []
    for place, part in enumerate(loc):
        inside = next((found for found in _inside(model, part) if found is not None), None)
        tagged = next((member for member in _members(model) if _is_tag(member, part)), None)
        if inside is None and tagged is not None:
            model = tagged
        elif inside is not None or (place == len(loc) - 1 and not str(part).startswith("literal[")):
            named.append(str(part))
            model = inside
    return tuple(named), model


def _is_tag(member: Any, part: Any) -> bool:
    if get_origin(member) is Literal:
        return str(part).startswith("literal[")
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return False
    fields = member.model_fields.values()
    tags = [
        tag
        for field in fields
        if get_origin(field.annotation) is Literal
        for tag in get_args(field.annotation)
    ]
    return part == member.__name__ or part in tags


def _inside(model: Any, part: Any) -> Iterator[Any]:
    for candidate in _members(model):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            field = candidate.model_fields.get(str(part))
            yield field.annotation if field else None
        elif get_origin(candidate) in (dict, Mapping):
            yield get_args(candidate)[1]
        elif get_origin(candidate) in (list, tuple) and get_args(candidate):
            yield get_args(candidate)[0]


def _keys(model: Any) -> list[str]:
    """The keys that are known inside ``model``."""
    for candidate in _members(model):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return list(candidate.model_fields)
    return []


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)
