"""Altered inputs of every kind: each ends in success or in one short message, and changes nothing.

`BEBERT_FUZZ=300` sets how many examples each kind gets.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bebert_ray.config import load_config, to_yaml
from bebert_ray.config.load import parse_config
from bebert_ray.data.tables import read_table
from bebert_ray.errors import UserError
from bebert_ray.reporting.report import load_results
from bebert_ray.scoring.parts import find_sources, open_output
from bebert_ray.storage import Location
from bebert_ray.storage.hashing import fingerprint
from bebert_ray.sweeps.records import Record, read_records, write_record

pytestmark = pytest.mark.slow

fuzzed = settings(
    max_examples=int(os.environ.get("BEBERT_FUZZ", "100")),
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)

SECONDS = 5
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**9, -(10**9), 10**400, 0.5, -1.0, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "x", "x" * 5000, "../../x", "/etc/hostname", "\0", "\ud800", "=1+1"]),
    st.sampled_from([[], {}, [[]], [None], {"": {}}, ["a"] * 300]),
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["[" * 3000, "{", "&a [*a]", "!!python/object:os.system x", "\0", "\ufeff"]),
    st.sampled_from(["\t", "\n", "\r", '"', ",", ": ", "- ", "#", "\x85", "9" * 5000, "1e999"]),
)
ALTERATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 20), TEXTS), min_size=1, max_size=3
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=2)


def altered(text: str, alterations: list[tuple[float, int, str]]) -> str:
    """A text with some characters replaced at some places."""
    for where, length, new in alterations:
        start = int(where * len(text))
        text = text[:start] + new + text[start + length :]
    return text


def changed(content: Any, changes: list[tuple[int, Any]]) -> Any:
    """A JSON value with some values, at any depth, replaced or left out."""
    content = json.loads(json.dumps(content))
    for number, value in changes:
        places = list(_places(content))
        holder, key = places[number % len(places)]
        if value is None and number % 2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(value)
    return content


def _places(content: Any) -> Any:
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list) and content[key]:
            yield from _places(content[key])


def ends_well(use: Callable[[], Any], within: Path | None = None) -> None:
    """Call a function, which succeeds or raises a short `UserError`, and changes no file.

    A configuration with several problems has a line for each.
    """
    before = files(within)
    begun = time.process_time()
    try:
        use()
    except UserError as error:
        head, *problems = str(error).split("\n  ")
        if problems:  # a configuration's, one line for each, of which the first 20 are listed
            assert len(problems) <= 21
        for line in (head, *problems):
            assert 0 < len(line) <= 500, line
    assert time.process_time() - begun < SECONDS
    assert files(within) == before


def files(directory: Path | None) -> dict[str, bytes]:
    if directory is None:
        return {}
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write_json(path: Path, content: Any, seal: bool = False) -> None:
    """Write JSON; sealed, its checksum fits, as that of one who means harm."""
    if seal and isinstance(content, dict):
        content = {name: value for name, value in content.items() if name != "checksum"}
        with suppress(ValueError):  # numbers that are not finite have none
            content["checksum"] = fingerprint(content)
    path.write_bytes(json.dumps(content).encode())


CONFIG = to_yaml(load_config(None, ["task=demo"]))


@fuzzed
@given(ALTERATIONS)
def test_a_configuration(alterations: Any) -> None:
    ends_well(lambda: parse_config(altered(CONFIG, alterations), "config.yaml"))


@fuzzed
@given(st.sampled_from(CONFIG.splitlines()), TEXTS, ALTERATIONS)
def test_overrides(line: str, value: str, alterations: Any) -> None:
    key = line.split(":")[0].strip()
    ends_well(lambda: load_config(None, ["task=demo", f"{key}={value}"]))
    ends_well(lambda: load_config(None, [altered("member.learning_rate=1e-4", alterations)]))


@fuzzed
@given(CHANGES, st.booleans())
def test_the_record_of_a_trial(changes: Any, seal: bool) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        point = {"member.learning_rate": 1e-4}
        record = Record(0, point, "done", 0.5, 8, 2, reports=[(1.0, 0.4), (2.0, 0.5)])
        write_record(Location.of(directory), record)
        place = directory / "trials" / "000.json"
        write_json(place, changed(json.loads(place.read_text()), changes), seal)
        ends_well(lambda: read_records(Location.of(directory)), directory)


@fuzzed
@given(CHANGES, st.booleans())
def test_the_record_of_a_prediction(changes: Any, seal: bool) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "in.csv").write_text("text\na\nb\nc\n")
        (directory / "out").mkdir()
        sources = find_sources([str(directory / "in.csv")], Location.of(directory / "out"))

        def use() -> None:
            open_output(Location.of(directory / "out"), {"batch": 2}, sources, 2)

        use()
        place = directory / "out" / "_predict.json"
        write_json(place, changed(json.loads(place.read_text()), changes), seal)
        ends_well(use, directory)


@fuzzed
@given(ALTERATIONS, st.sampled_from(["csv", "tsv", "jsonl", "json"]), st.booleans())
def test_a_file_of_data(alterations: Any, suffix: str, skip_bad: bool) -> None:
    rows = [{"text": f"it is {i}", "label": "yes" if i % 2 else "no"} for i in range(4)]
    mark = "\t" if suffix == "tsv" else ","
    text = {
        "json": json.dumps(rows),
        "jsonl": "\n".join(map(json.dumps, rows)),
    }.get(suffix, "\n".join(mark.join(row) for row in (rows[0], *(r.values() for r in rows))))
    with TemporaryDirectory() as name:
        path = Path(name) / f"train.{suffix}"
        path.write_bytes(altered(text, alterations).encode(errors="surrogatepass"))
        ends_well(lambda: read_table(path, ["text", "label"], skip_bad=skip_bad), Path(name))


@pytest.fixture(scope="module")
def finished(finish_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return finish_run(tmp_path_factory.mktemp("fuzz") / "run", "export.remainder=fp16")


@fuzzed
@given(CHANGES, st.booleans())
def test_results(finished: Path, changes: Any, seal: bool) -> None:
    with TemporaryDirectory() as name:
        place = Path(name) / "results.json"
        content = json.loads((finished / "results.json").read_text())
        write_json(place, changed(content, changes), seal)
        ends_well(lambda: load_results(Location.of(Path(name))), Path(name))


@fuzzed
@given(CHANGES)
def test_the_configuration_of_a_packed_model(finished: Path, changes: Any) -> None:
    from bebert_ray.packed import load_model
    from bebert_ray.packed.load import read_summary
    from bebert_ray.packed.manifest import write_manifest

    with TemporaryDirectory() as name:
        directory = Path(shutil.copytree(finished / "model", Path(name) / "model"))
        place = directory / "config.json"
        write_json(place, changed(json.loads(place.read_text()), changes))
        write_manifest(directory)
        ends_well(lambda: load_model(directory), directory)
        ends_well(lambda: read_summary(directory), directory)
