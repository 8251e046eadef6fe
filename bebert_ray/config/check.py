"""From values under dotted keys to a checked dataclass, or one line for each that is not possible.

Values are held flat, one entry a dotted key, so that a file and the command line merge key by key
and every message can say where its key was set.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from bebert_ray.config.schema import Config
from bebert_ray.errors import UserError, closest
from bebert_ray.paths import hidden

COMMAND_LINE = "command line"
ARGUMENT = "argument"
"""Where a value comes from that a Python program gave."""


class Entry(NamedTuple):
    """A value that was given, and where: `FILE, line N`, `command line` or `argument`."""

    value: Any
    where: str


class Schema(NamedTuple):
    """What may be set.

    Attributes:
        adapter: checks the values.
        leaves: the JSON schema of every dotted key.
        sections: the description of every section.
    """

    adapter: TypeAdapter[Any]
    leaves: dict[str, Any]
    sections: dict[str, str]

    @classmethod
    def of(cls, root: type) -> Schema:
        """The keys of a pydantic dataclass and of those in it, which are its sections."""
        adapter: TypeAdapter[Any] = TypeAdapter(root)
        whole = adapter.json_schema()
        leaves: dict[str, Any] = {}
        sections: dict[str, str] = {}

        def walk(schema: Mapping[str, Any], prefix: str) -> None:
            for name, part in schema["properties"].items():
                if "$ref" in part:
                    sections[prefix + name] = part["description"]
                    walk(whole["$defs"][part["$ref"].rpartition("/")[2]], f"{prefix}{name}.")
                else:
                    leaves[prefix + name] = part

        walk(whole, "")
        return cls(adapter, leaves, sections)


RUN = Schema.of(Config)


def build(schema: Schema, entries: Mapping[str, Entry], problems: list[str]) -> Any:
    """The dataclass that holds the entries, and defaults for the rest.

    Args:
        schema: what there may be.
        entries: by dotted key.
        problems: what is wrong already; what is found wrong joins them.

    Returns:
        The dataclass, or None if its values are not possible.
    """
    known: dict[str, Entry] = {}
    for key, entry in entries.items():
        if key in schema.leaves:
            known[key] = entry
        elif key.partition(".")[0] == "sweep" and "sweep" not in schema.sections:
            sweep = f"sweep: is a section of sweeps, which `bebert sweep` runs ({entry.where})"
            if sweep not in problems:
                problems.append(sweep)
        elif key not in schema.sections:
            # To look for like names takes long: not for thousands of keys.
            hint = did_you_mean(schema, key[:100]) if len(problems) < MOST_PROBLEMS else ""
            problems.append(f"{key[:200]}: unknown key{hint} ({entry.where})")
        elif entry.value is not None:  # a section left empty is fine
            example = next(leaf for leaf in schema.leaves if leaf.startswith(f"{key}."))
            problems.append(f"{key}: is a section, set keys in it ({example}, …) ({entry.where})")
    result, bad = _validate(schema, known)
    problems += bad.values()
    return result


def refuse(problems: list[str]) -> None:
    """End here if there are problems.

    Raises:
        UserError: one line for each, as far as there is room for them.
    """
    if problems:
        lines = [_line(problem) for problem in problems[:MOST_PROBLEMS]]
        more = len(problems) - len(lines)
        lines += [f"and {more} more"] if more else []
        raise UserError("\n  ".join(["the configuration cannot be used:", *lines]))


MOST_PROBLEMS = 20
"""How many problems a message lists."""


def _line(problem: str, length: int = 400) -> str:
    text = hidden(problem)
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}"


def shown_value(value: Any) -> str:
    """A value for a message: as JSON, shortened, without what may be a secret."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__} that is too long to show"
    text = hidden(text)
    return text if len(text) <= 100 else f"{text[:100]}…"


def describe(schema: Schema = RUN) -> str:
    """Lists every key with its default, its meaning and its choices, by section, for `--help`."""
    lines: list[str] = []
    last = ""
    for key, leaf in schema.leaves.items():
        section = key.rpartition(".")[0]
        if section != last:
            lines += ["", f"{section}: {schema.sections[section]}"]
            last = section
        default = leaf.get("default", "required")
        if not isinstance(default, str):
            default = f"{default:g}" if isinstance(default, float) else json.dumps(default)
        choices = f" [{'|'.join(leaf['enum'])}]" if "enum" in leaf else ""
        line = f"  {key:<32} {default:<14} {leaf['description']}{choices}"
        lines.append(textwrap.fill(line, width=120, subsequent_indent=" " * 50))
    return "\n".join(lines)


def did_you_mean(schema: Schema, key: str) -> str:
    """Suggests keys that are spelled alike, or all that end alike (`members`, `learning_rate`)."""
    section, _, leaf = key.rpartition(".")
    keys_by_leaf: dict[str, list[str]] = {}
    for known in schema.leaves:
        keys_by_leaf.setdefault(known.rpartition(".")[2], []).append(known)
    close = closest(key, schema.leaves, cutoff=0.8)
    near = keys_by_leaf.get(closest(leaf, keys_by_leaf) or "", [])
    here = [k for k in near if k.rpartition(".")[0] == section]
    # Without a section, or in one that has no such key, it may be any of those.
    any_of_them = near if not section or (section in schema.sections and not here) else []
    matches = (
        (here if section else [])
        or any_of_them
        or ([close] if close else [])
        or keys_by_leaf.get(leaf)
        or near
    )
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def _validate(schema: Schema, entries: Mapping[str, Entry]) -> tuple[Any, dict[str, str]]:
    """The dataclass, or None and one line for each key that keeps it from being one."""
    problems: dict[str, str] = {}
    for _ in range(2):  # once more without the bad values: the others may not fit together either
        values = {key: entry.value for key, entry in entries.items() if key not in problems}
        try:
            result = schema.adapter.validate_python(_nest(values))
        except ValidationError as error:
            problems = dict(_explain(schema, error, entries, frozenset(problems))) | problems
        else:
            return (None if problems else result), problems
    return None, problems


def _explain(
    schema: Schema,
    error: ValidationError,
    entries: Mapping[str, Entry],
    reported: frozenset[str],
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
            yield key, f"{key}: is missing, it must be {_allowed(schema.leaves[key])}"
            continue
        if detail["type"] == "default_factory_not_called":  # for want of a key that is reported
            continue
        value, where = entries[key]
        if detail["type"] == "value_error":
            reason = str(detail["ctx"]["error"])
        else:
            reason = f"must be {_allowed(schema.leaves[key])}"
        yield (
            key,
            f"{key} = {shown_value(value)}: {reason} ({where})",
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
    if schema["type"] == "array" and "maxItems" not in schema:
        return f"a list, each {_allowed(schema['items'])}"
    if schema["type"] == "array":
        return f"a list of {schema['minItems']} to {schema['maxItems']} texts"
    if schema["type"] == "string" and "minLength" in schema:
        return "text that is not empty"
    bounds = [f"{words} {schema[name]}" for name, words in _BOUNDS.items() if name in schema]
    if not bounds:
        return _TYPES[schema["type"]]
    return f"{_TYPES[schema['type']]}, {' and '.join(bounds)}"


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value
    return nested
