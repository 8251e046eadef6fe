"""Reads a configuration from YAML and `key.sub=value` overrides, and writes it back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bebert_ray.config.check import ARGUMENT, COMMAND_LINE, RUN, Entry, build, refuse
from bebert_ray.config.schema import Config
from bebert_ray.errors import UserError, closest
from bebert_ray.paths import expand, is_utf8

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = next(
    (place for place in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if place.is_dir()),
    _PACKAGE / "configs",
)
"""The shipped configurations: in the package if it is installed from a wheel, else beside it."""

FREE_TEXT = {
    key
    for key, leaf in RUN.leaves.items()
    if "enum" not in leaf
    and {option.get("type") for option in leaf.get("anyOf", [leaf])} <= {"string", "null"}
}
"""The keys whose value is any text: paths and names of columns."""
_SIGNS = (
    *(yaml.AnchorToken, yaml.AliasToken, yaml.DirectiveToken),
    *(yaml.DocumentStartToken, yaml.DocumentEndToken),
)


class _Loader(yaml.SafeLoader):
    """Reads plain scalars as YAML 1.2 does: `5e-5` is a number; `no` and `010` are text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own attribute)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"({_pattern})$"),
        [*_first, ""] if _tag == "null" else list(_first),
    )


class _Dumper(yaml.SafeDumper):
    """Quotes any text that `_Loader` would take for something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


Overrides = Sequence[str] | Mapping[str, Any]
"""`key.sub=value` texts of a command line, or what a Python program gives, nested or dotted."""


def load_config(path: str | Path | None = None, overrides: Overrides = ()) -> Config:
    """Builds the configuration of a run.

    Args:
        path: a YAML file, the name of a shipped one such as `mrpc`, or None for the defaults and
            overrides alone.
        overrides: `key.sub=value` texts, the value in YAML; where a key takes text, a value of
            which YAML would leave a part out is taken as it is. Or values by key, such as
            `{"ensemble": {"members": 2}, "data.max_train": 100}`. They win over the file, and
            later ones win over earlier ones.

    Raises:
        UserError: the file cannot be read or is not YAML, or some keys or values are not possible;
            one line for each, all at once.
    """
    problems: list[str] = []
    config: Config = build(RUN, read_entries(path, overrides, problems), problems)
    refuse(problems)
    return config


def parse_config(text: str, source: str) -> Config:
    """Builds the configuration that is in a YAML text, which messages call `source`.

    Raises:
        UserError: as in `load_config`.
    """
    problems: list[str] = []
    config: Config = build(RUN, _parse_file(text, source, problems), problems)
    refuse(problems)
    return config


def read_entries(
    path: str | Path | None, overrides: Overrides, problems: list[str]
) -> dict[str, Entry]:
    """What a file and overrides give, by dotted key; nothing is checked but that it is YAML.

    Args:
        path: as in `load_config`.
        overrides: as in `load_config`.
        problems: joined by what is given twice or cannot be read.

    Raises:
        UserError: the file cannot be read or is not YAML.
    """
    entries = {}
    if path is not None:
        entries = _parse_file(_read_file(find_config(path)), expand(str(path)), problems)
    if isinstance(overrides, Mapping):
        return entries | _read_values(overrides, problems)
    for override in overrides:
        entries |= _parse_override(override, problems)
    return entries


def find_config(given: str | Path) -> Path:
    """The file that a path, or the name of a shipped configuration, stands for.

    Raises:
        UserError: there is neither such a file nor such a name.

    Examples:
        >>> find_config("quickstart").name
        'quickstart.yaml'
    """
    text = str(given)
    path = Path(expand(text))
    if path.exists():
        return path
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    if path.name in (text, f"{text}.yaml") and path.stem in shipped:
        return shipped[path.stem]
    close = closest(path.stem, shipped)
    hint = f"did you mean {close}? " if close else ""
    raise UserError(
        f"there is no config file {text[:200]}; {hint}Those shipped are: {', '.join(shipped)}"
    )


def to_dict(config: Config) -> dict[str, Any]:
    """Every key with its resolved value, nested, in JSON's types."""
    result: dict[str, Any] = RUN.adapter.dump_python(config, mode="json")
    return result


def to_yaml(config: Config) -> str:
    """Every key with its resolved value, as YAML that `load_config` reads back unchanged."""
    text: str = yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compares two configurations in the form of `to_dict`.

    Returns:
        `(dotted key, old value, new value)` for each key whose values differ; None where a side
        does not have the key.
    """
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        (key, before.get(key), after.get(key))
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _read_file(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the config file {path} is not valid YAML: {error}") from error


def _parse_file(text: str, source: str, problems: list[str]) -> dict[str, Entry]:
    try:
        entries = _parse(text, source, problems)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"the config file {source} is not valid YAML: {_reason(error)}") from error
    whole = entries.pop("", None)
    if whole is not None and whole.value is not None:
        raise UserError(f"the config file {source} must hold `key: value` lines, one a setting")
    return entries


def _parse_override(override: str, problems: list[str]) -> dict[str, Entry]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        problems.append(f"{_cut(override)}: write an override as key.sub=value ({COMMAND_LINE})")
        return {}
    if not is_utf8(override):
        problems.append(f"{_cut(key)}: the value is not UTF-8 text ({COMMAND_LINE})")
        return {}
    try:
        tokens = _scan(text)
        if key in FREE_TEXT and not _is_one_value(tokens, text):
            return {key: Entry(text, COMMAND_LINE)}
        if not _is_whole(tokens, text):
            raise ValueError("a part of it would be left out (#, &, * and ! have a meaning)")
        return _parse(text, COMMAND_LINE, problems, key)
    except (yaml.YAMLError, ValueError) as error:
        if key in FREE_TEXT:
            return {key: Entry(text, COMMAND_LINE)}
        reason = f"the value is not valid YAML, put it in quotes: {_reason(error)}"
        problems.append(f"{_cut(override)}: {reason} ({COMMAND_LINE})")
        return {}


def _read_values(values: Mapping[str, Any], problems: list[str]) -> dict[str, Entry]:
    """Entries of a program's values, which become those that YAML has: lists, numbers, texts."""
    entries = {}
    for key, value in flatten(values):
        try:
            text = json.dumps(value, ensure_ascii=False, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            problems.append(f"{_cut(key)}: YAML has no such value, {str(error)[:100]} ({ARGUMENT})")
            continue
        if is_utf8(key + text):
            entries[key] = Entry(json.loads(text), ARGUMENT)
        else:
            problems.append(f"{_cut(key)}: is not UTF-8 text ({ARGUMENT})")
    return entries


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy":
        return value.tolist()
    raise TypeError(f"it is of type {type(value).__name__}")


def _scan(text: str) -> list[yaml.Token]:
    """The tokens of a YAML text.

    Raises:
        ValueError: it is nested too deep, for which the scanner takes time by the square.
        yaml.YAMLError: it is not YAML.
    """
    tokens: list[yaml.Token] = []
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken)
        depth -= isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        tokens.append(token)
    return tokens


def _is_whole(tokens: list[yaml.Token], text: str) -> bool:
    """Whether YAML keeps every character of a text: no comment, anchor, alias, tag or document."""
    ends = [token.end_mark.index for token in tokens]
    starts = [token.start_mark.index for token in tokens[1:]]
    gaps = [text[end:start] for end, start in zip(ends, starts, strict=False)]
    return not any(gap.strip() for gap in gaps) and not any(
        isinstance(token, _SIGNS) or (isinstance(token, yaml.TagToken) and token.value[0] != "!!")
        for token in tokens
    )


def _is_one_value(tokens: list[yaml.Token], text: str) -> bool:
    """Whether a text is, to YAML, one scalar on one line without more around it, or a list."""
    match tokens[1:-1]:
        case []:
            return True
        case [yaml.ScalarToken() as scalar]:
            whole = (scalar.start_mark.index, scalar.end_mark.index) == (0, len(text))
            return whole and (scalar.style in ("'", '"') or (scalar.plain and "\n" not in text))
        case [yaml.FlowSequenceStartToken(), *_]:
            return _is_whole(tokens, text)
    return False


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _parse(text: str, source: str, problems: list[str], root: str = "") -> dict[str, Entry]:
    """The values of a YAML text by dotted key; keys that are there twice join `problems`."""
    _check_size(text)
    loader = _Loader(text)
    entries: dict[str, Entry] = {}
    seen: set[str] = set()

    def walk(node: yaml.Node | None, key: str, where: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            try:
                value = None if node is None else loader.construct_object(node, deep=True)
            except yaml.YAMLError:
                raise
            except Exception as error:  # `!!bool maybe`, say: of several types
                line = node.start_mark.line + 1 if node is not None else 1
                raise ValueError(f"line {line}: a value is not what it is said to be") from error
            entries[key] = Entry(value, where)
            return
        for name, child in node.value:
            inner = f"{key}.{name.value}" if key else str(name.value)
            line = name.start_mark.line + 1
            place = source if source == COMMAND_LINE else f"{source}, line {line}"
            if inner in seen:
                problems.append(f"{inner}: is given twice ({place})")
            seen.add(inner)
            walk(child, inner, place)

    try:
        walk(loader.get_single_node(), root, source)
    finally:
        loader.dispose()
    return entries


MOST_BYTES, MOST_EVENTS, MOST_DEPTH = 1_000_000, 50_000, 20
"""Of a YAML text: its length, its scalars and brackets, and how deep they are nested."""


def _check_size(text: str) -> None:
    """Refuse a text that would take long to read, before it is.

    Raises:
        ValueError: it is too long or too deep, or has aliases, which a few lines suffice to make
            millions of values of.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES:,} characters")
    depth = 0
    # Not libyaml's parser, whose scanner may differ.
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias (*); write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        if count > MOST_EVENTS:
            raise ValueError(f"it holds more than {MOST_EVENTS:,} values")


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {str(error.problem)[:150]}"
    return " ".join(str(error).split())[:200]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value under its dotted key.

    Raises:
        UserError: they are nested too deep, or hold themselves.
    """
    if prefix.count(".") > MOST_DEPTH:
        raise UserError(f"{_cut(prefix)}: is nested more than {MOST_DEPTH} deep")
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
