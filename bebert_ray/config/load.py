"""Reads a configuration from YAML and `key.sub=value` overrides, and writes it back.

On the way everything is held flat, one entry a dotted key, so that a file and the command line
merge key by key and every message can say where its key was set.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from bebert_ray.config.schema import Config
from bebert_ray.errors import UserError

_COMMAND_LINE = "command line"
_ADAPTER = TypeAdapter(Config)


class _Entry(NamedTuple):
    value: Any
    where: str  # "FILE, line N" or "command line"


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


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Builds the configuration of a run.

    Args:
        path: a YAML file, or None for the defaults and overrides alone.
        overrides: `key.sub=value` texts, the value in YAML. They win over the file, and later ones
            win over earlier ones.

    Raises:
        UserError: the file cannot be read or is not YAML, or some keys or values are not possible;
            one line for each, all at once.
    """
    problems: list[str] = []
    entries = {} if path is None else _parse_file(_read_file(path), str(path), problems)
    for override in overrides:
        entries |= _parse_override(override, problems)
    return _build(entries, problems)


def parse_config(text: str, source: str) -> Config:
    """Builds the configuration that is in a YAML text, which messages call `source`.

    Raises:
        UserError: as in `load_config`.
    """
    problems: list[str] = []
    return _build(_parse_file(text, source, problems), problems)


def to_dict(config: Config) -> dict[str, Any]:
    """Every key with its resolved value, nested, in JSON's types."""
    result: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
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
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        (key, before.get(key), after.get(key))
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def describe() -> str:
    """Lists every key with its default, its meaning and its choices, by section, for `--help`."""
    lines: list[str] = []
    last = ""
    for key, schema in _LEAVES.items():
        section = key.rpartition(".")[0]
        if section != last:
            lines += ["", f"{section}: {_SECTIONS[section]}"]
            last = section
        default = schema.get("default", "required")
        if not isinstance(default, str):
            default = f"{default:g}" if isinstance(default, float) else json.dumps(default)
        choices = f" [{'|'.join(schema['enum'])}]" if "enum" in schema else ""
        line = f"  {key:<32} {default:<14} {schema['description']}{choices}"
        lines.append(textwrap.fill(line, width=120, subsequent_indent=" " * 50))
    return "\n".join(lines)


def _build(entries: Mapping[str, _Entry], problems: list[str]) -> Config:
    known: dict[str, _Entry] = {}
    for key, entry in entries.items():
        if key in _LEAVES:
            known[key] = entry
        elif key not in _SECTIONS:
            problems.append(f"{key}: unknown key{_did_you_mean(key)} ({entry.where})")
        elif entry.value is not None:  # a section left empty is fine
            example = next(leaf for leaf in _LEAVES if leaf.startswith(f"{key}."))
            problems.append(f"{key}: is a section, set keys in it ({example}, …) ({entry.where})")

    config, bad = _validate(known)
    problems += bad.values()
    if config is None or problems:
        raise UserError("\n  ".join(["the configuration cannot be used:", *problems]))
    return config


def _read_file(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the config file {path} is not valid YAML: {error}") from error


def _parse_file(text: str, source: str, problems: list[str]) -> dict[str, _Entry]:
    try:
        entries = _parse(text, source, problems)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"the config file {source} is not valid YAML: {_reason(error)}") from error
    whole = entries.pop("", None)
    if whole is not None and whole.value is not None:
        raise UserError(f"the config file {source} must hold `key: value` lines, one a setting")
    return entries


def _parse_override(override: str, problems: list[str]) -> dict[str, _Entry]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        problems.append(f"{override}: write an override as key.sub=value ({_COMMAND_LINE})")
        return {}
    try:
        return _parse(text, _COMMAND_LINE, problems, key.strip())
    except (yaml.YAMLError, ValueError) as error:
        reason = f"the value is not valid YAML, put it in quotes: {_reason(error)}"
        problems.append(f"{override}: {reason} ({_COMMAND_LINE})")
        return {}


def _parse(text: str, source: str, problems: list[str], root: str = "") -> dict[str, _Entry]:
    """The values of a YAML text by dotted key; keys that are there twice join `problems`."""
    loader = _Loader(text)
    entries: dict[str, _Entry] = {}
    seen: set[str] = set()

    def walk(node: yaml.Node | None, key: str, where: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            value = None if node is None else loader.construct_object(node, deep=True)
            entries[key] = _Entry(value, where)
            return
        for name, child in node.value:
            inner = f"{key}.{name.value}" if key else str(name.value)
            line = name.start_mark.line + 1
            place = source if source == _COMMAND_LINE else f"{source}, line {line}"
            if inner in seen:
                problems.append(f"{inner}: is given twice ({place})")
            seen.add(inner)
            walk(child, inner, place)

    try:
        walk(loader.get_single_node(), root, source)
    finally:
        loader.dispose()
    return entries


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _validate(entries: Mapping[str, _Entry]) -> tuple[Config | None, dict[str, str]]:
    """The configuration, or one line for each key that keeps it from being one."""
    problems: dict[str, str] = {}
    for _ in range(2):  # once more without the bad values: the others may not fit together either
        values = {key: entry.value for key, entry in entries.items() if key not in problems}
        try:
            config = _ADAPTER.validate_python(_nest(values))
        except ValidationError as error:
            problems = dict(_explain(error, entries, frozenset(problems))) | problems
        else:
            return (None if problems else config), problems
    return None, problems


def _explain(
    error: ValidationError, entries: Mapping[str, _Entry], reported: frozenset[str]
) -> Iterator[tuple[str, str]]:
    for detail in error.errors():
        if detail["type"] == "conflict":
            for key, others, message in detail["ctx"]["conflicts"]:
                if reported.isdisjoint([key, *others]):
                    setter = next((k for k in [key, *others] if k in entries), None)
                    where = f" ({entries[setter].where})" if setter else ""
                    yield key, f"{key}: {message}{where}"
            continue
        key = ".".join(part for part in detail["loc"] if isinstance(part, str))
        if detail["type"] == "missing":
            yield key, f"{key}: is missing, it must be {_allowed(_LEAVES[key])}"
            continue
        if detail["type"] == "default_factory_not_called":  # for want of a key that is reported
            continue
        value, where = entries[key]
        if detail["type"] == "value_error":
            reason = str(detail["ctx"]["error"])
        else:
            reason = f"must be {_allowed(_LEAVES[key])}"
        yield (
            key,
            f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}: {reason} ({where})",
        )


_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}
_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}


def _allowed(schema: Mapping[str, Any]) -> str:
    """Says in words what a JSON schema allows."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if schema["type"] == "array":
        return f"a list of {schema['minItems']} to {schema['maxItems']} texts"
    if schema["type"] == "string" and "minLength" in schema:
        return "text that is not empty"
    bounds = [f"{words} {schema[name]}" for name, words in _BOUNDS.items() if name in schema]
    if not bounds:
        return _TYPES[schema["type"]]
    return f"{_TYPES[schema['type']]}, {' and '.join(bounds)}"


def _did_you_mean(key: str) -> str:
    """Suggests keys that are spelled alike, or that end alike (`members`)."""
    leaf = key.rpartition(".")[2]
    keys_by_leaf: dict[str, list[str]] = {}
    for known in _LEAVES:
        keys_by_leaf.setdefault(known.rpartition(".")[2], []).append(known)
    same_leaf = keys_by_leaf.get(leaf, [])
    close = get_close_matches(key, _LEAVES, n=1, cutoff=0.8)
    close_leaves = get_close_matches(leaf, keys_by_leaf, n=1)
    matches = close or same_leaf or [k for near in close_leaves for k in keys_by_leaf[near]]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value
    return nested


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _keys() -> tuple[dict[str, Any], dict[str, str]]:
    """The JSON schema of every dotted key, and the description of every section."""
    root = _ADAPTER.json_schema()
    leaves: dict[str, Any] = {}
    sections: dict[str, str] = {}

    def walk(schema: Mapping[str, Any], prefix: str) -> None:
        for name, part in schema["properties"].items():
            if "$ref" in part:
                sections[prefix + name] = part["description"]
                walk(root["$defs"][part["$ref"].rpartition("/")[2]], f"{prefix}{name}.")
            else:
                leaves[prefix + name] = part

    walk(root, "")
    return leaves, sections


_LEAVES, _SECTIONS = _keys()
