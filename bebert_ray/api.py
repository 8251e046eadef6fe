"""What Python programs call: `train`, `sweep` and `predict` of `import bebert_ray as bb`.

Each does what the command of the same name does, joins the Ray that the program has initialised,
and raises `UserError` for bad input and `RunError` for a run that failed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bebert_ray.config import Config, load_config, to_dict
from bebert_ray.config.check import Entry, refuse
from bebert_ray.config.load import flatten, read_entries
from bebert_ray.errors import UserError, closest
from bebert_ray.paths import ensure_home
from bebert_ray.reporting.console import console

if TYPE_CHECKING:
    import pyarrow as pa

    from bebert_ray.pipeline.results import Results
    from bebert_ray.scoring.run import Outcome as Scored
    from bebert_ray.scoring.run import Request
    from bebert_ray.sweeps.best import Outcome as Swept

Examples = Any
"""A pandas DataFrame, a `datasets.Dataset`, a `pyarrow.Table`, or a path."""

IN_MEMORY = "(in memory)"
"""Stands for `data.path` where the examples are a table of the calling program."""

TEXT_COLUMNS = (("text", "text_pair"), ("sentence1", "sentence2"), ("text",), ("sentence",))
"""The names by which text columns are found if none are given; the first that are there."""


def train(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    /,
    *,
    train: Examples | None = None,
    dev: Examples | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Results:
    """Train an ensemble of binary BERTs and evaluate it, as `bebert train` does.

    Called again with the same arguments it goes on where it stopped, or returns at once what is
    done.

    Args:
        config: a YAML file, the name of a shipped configuration such as `"mrpc"`, a dictionary, a
            `Config`; or None for defaults and `overrides` alone.
        train: examples of your own, [n] rows: a pandas DataFrame, a `datasets.Dataset`, a
            `pyarrow.Table`, or a path. The task is `custom` then. Columns `text` (and `text_pair`)
            or `sentence` (`sentence1`, `sentence2`), and `label`, are found by their names; others
            are named by `data={"text_columns": [...], "label_column": ...}`.
        dev: the examples that scores are reported on; by default `dev.*` beside a `train.*` that is
            given as a path, else a tenth of `train`.
        quiet: print nothing.
        overrides: sections as dictionaries, such as `ensemble={"members": 2}`, or single keys,
            such as `seed=1`.

    Returns:
        The results: scores, the path of the packed model, and tables.

    Raises:
        UserError: something in the input is wrong; nothing was written.
        RunError: the run failed; call it again to go on.

    Examples:
        ```python
        import bebert_ray as bb

        results = bb.train(train=frame, bits="1-1-4", output="runs/mine", seed=1)
        results.scores["dev"]["accuracy"]
        ```
    """
    ensure_home()
    tables: dict[str, pa.Table] = {}
    path, values = _given(config, overrides)
    if train is not None:
        problems: list[str] = []
        entries = read_entries(path, values, problems)
        refuse(problems)
        values |= _custom_task(train, dev, entries, tables)
    elif dev is not None:
        raise UserError("dev: there is no train; give both, or a config that names the data")
    out, progress = console(quiet=quiet), console(stderr=True, quiet=quiet)

    from bebert_ray.run import train as run_training

    results = run_training(load_config(path, values), out, progress, tables=tables or None)
    assert results is not None
    return results


def sweep(
    config: str | Path | Mapping[str, Any] | None = None,
    /,
    *,
    quiet: bool = False,
    **overrides: Any,
) -> Swept:
    """Search for the best ensemble, as `bebert sweep` does.

    Args:
        config: as of `train`, with a section `sweep`.
        quiet: print nothing.
        overrides: as of `train`.

    Returns:
        The outcome: records of all trials, the candidates that were compared, the winner.

    Raises:
        UserError: something in the input is wrong; nothing was written.
        RunError: the sweep failed; call it again to go on.
    """
    ensure_home()
    from bebert_ray.sweeps.search import raise_failed_trials, run_sweep
    from bebert_ray.sweeps.settings import load_sweep

    out, progress = console(quiet=quiet), console(stderr=True, quiet=quiet)
    outcome = run_sweep(load_sweep(*_given(config, overrides)), out, progress)
    assert outcome is not None
    raise_failed_trials(outcome)
    return outcome


def predict(
    model: str | Path,
    input: Examples | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    quiet: bool = False,
    **options: Any,
) -> Scored | pa.Table:
    """Score texts with a finished model, as `bebert predict` does.

    Args:
        model: path or URI of a model, as `model/` of a run; or any sequence classifier.
        input: paths or URIs of files and directories; or a DataFrame, Dataset or Table.
        output: path or URI of a directory; None, for a table in memory alone, returns the scored
            rows.
        quiet: print nothing.
        options: `text_columns`, `prefix`, `rows_per_file`, `batch_size`, `workers`, `cascade`, see
            `scoring.run.Request`.

    Returns:
        What was done, or without `output` a `pyarrow.Table` of the rows with the columns `label`
        and `probability_…`, or `score`.

    Raises:
        UserError: something in the input is wrong.
        RunError: scoring failed.
    """
    ensure_home()
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bebert_ray.scoring.run import predict as run_scoring
    from bebert_ray.scoring.run import score

    progress = console(stderr=True, quiet=quiet)
    if isinstance(input, str | Path):
        input = [input]
    if isinstance(input, list | tuple):
        if output is None:
            raise UserError("output: name the directory for the scored files")
        return run_scoring(_request(model, input, output, options), progress)
    table = as_table(input, "input")
    with tempfile.TemporaryDirectory(prefix="bebert-ray-") as scratch:
        file = Path(scratch, "input.parquet")
        pq.write_table(table, file)
        request = _request(model, [file], output or Path(scratch, "scored"), options)
        try:
            if output is not None:
                return run_scoring(request, progress, here=True)
            outcome = score(request, progress, here=True)
        except UserError as error:  # whoever gave a table knows of no file
            raise UserError(str(error).replace(str(file), "input")) from error
        if outcome.bad:
            raise UserError(
                f"input: {outcome.bad} of {len(table)} rows have no text to score; leave them out, "
                "or give output=DIR, which lists them"
            )
        parts = [pq.read_table(Path(request.output, part.name)) for part in outcome.parts]
        return pa.concat_tables(parts)


def _request(
    model: str | Path, input: Sequence[str | Path], output: str | Path, options: dict[str, Any]
) -> Request:
    from pydantic import TypeAdapter, ValidationError

    from bebert_ray.scoring.run import Request

    known = [field.name for field in fields(Request)]
    for name in options:
        if name not in known:
            close = closest(name, known)
            hint = f"; did you mean {close}?" if close else f"; there are {', '.join(known[3:])}"
            raise UserError(f"{name[:60]}: is no option of predict{hint}")
    given = {"model": str(model), "input": [*map(str, input)], "output": str(output), **options}
    try:
        return TypeAdapter(Request).validate_python(given)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        raise UserError(
            f"{first['loc'][0]} = {str(first['input'])[:60]}: {first['msg']}"
        ) from error


def as_table(examples: Examples, name: str) -> pa.Table:
    """Examples as a `pyarrow.Table`.

    Args:
        examples: a DataFrame, a `datasets.Dataset`, or a Table.
        name: of the argument, for messages.

    Raises:
        UserError: it is something else, or holds what Arrow has no type for.

    Examples:
        >>> import pyarrow as pa
        >>> as_table(pa.table({"text": ["fine"]}), "train").num_rows
        1
    """
    import pyarrow as pa

    kind = f"{type(examples).__module__}.{type(examples).__name__}"
    try:
        if isinstance(examples, pa.Table):
            return examples
        if kind.startswith("pandas.") and kind.endswith(".DataFrame"):
            return pa.Table.from_pandas(examples, preserve_index=False)
        if kind.startswith("datasets."):
            return examples.with_format("arrow")[:]
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{name}: cannot be read: {str(error)[:200]}") from error
    raise UserError(
        f"{name}: is a {kind}; give a pandas DataFrame, a datasets.Dataset, a pyarrow.Table or a "
        "path"
    )


def _custom_task(
    train: Examples, dev: Examples | None, given: Mapping[str, Entry], tables: dict[str, pa.Table]
) -> dict[str, Any]:
    """The keys of a run on examples that were given; fills `tables` with those in memory."""
    from bebert_ray.data.formats import listed

    named = {key for key, entry in given.items() if entry.value is not None}
    for name, argument, key in (("train", train, "data.path"), ("dev", dev, "data.dev_path")):
        if argument is not None and key in named:
            raise UserError(f"{name}: is given, and {key} too; leave one of them out")
    settings: dict[str, Any] = {} if "task" in named else {"task": "custom"}
    if isinstance(train, str | Path):
        settings["data.path"] = str(train)
        if dev is not None:
            settings["data.dev_path"] = str(dev)
        return settings
    if isinstance(dev, str | Path):
        raise UserError("dev: is a path, and train is a table; give both in the same way")
    tables["train"] = as_table(train, "train")
    if dev is not None:
        tables["dev"] = as_table(dev, "dev")
    settings["data.path"] = IN_MEMORY
    names = set(tables["train"].column_names)
    if "data.text_columns" not in named:
        found = next((columns for columns in TEXT_COLUMNS if names >= set(columns)), None)
        if found is None:
            raise UserError(
                f"train: has no column named text or sentence (it has {listed(sorted(names))}); "
                'name the column with the texts, or the two of a pair: data={"text_columns": [...]}'
            )
        settings["data.text_columns"] = list(found)
    if "data.label_column" not in named:
        if "label" not in names:
            raise UserError(
                f"train: has no column named label (it has {listed(sorted(names))}); name it: "
                'data={"label_column": ...}'
            )
        settings["data.label_column"] = "label"
    return settings


def _given(
    config: str | Path | Mapping[str, Any] | Config | None, overrides: Mapping[str, Any]
) -> tuple[str | Path | None, dict[str, Any]]:
    """A configuration and overrides as `load_config` takes them: a file, and values by key."""
    if isinstance(config, Config):
        config = to_dict(config)
    if isinstance(config, Mapping):
        return None, dict(flatten(config)) | dict(flatten(overrides))
    return config, dict(flatten(overrides))
