"""What can be known and checked before any work starts: data, checkpoint, run directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bebert_ray.config import Config, differing_keys, load_config, to_dict, to_yaml
from bebert_ray.data.columns import Columns, load_columns, save_columns, tokenize
from bebert_ray.data.corpus import Corpus
from bebert_ray.data.holdout import split_holdout
from bebert_ray.data.sources import load_corpus
from bebert_ray.data.tasks import Task
from bebert_ray.errors import UserError
from bebert_ray.models.bert import Checkpoint, find_checkpoint, load_encoder, load_tokenizer
from bebert_ray.storage import Artifact, Miss, commit, find, fingerprint, write_atomic
from bebert_ray.training.stages import STAGES

# Keys that a run may change and go on with what it has: they touch the members alone, or no figure.
FREE_KEYS = ("ensemble.", "member.", "resources.", "output", "fresh", "training.eval_batch_size")
# What a run leaves in its directory.
CONFIG = "config.yaml"
FILES = ("metrics.jsonl", "results.json", "scores.png")
DIRECTORIES = ("data", *STAGES, "members", "weights")
# What a run may leave that was killed before it had written its configuration.
TRACES = {".lock", f"{CONFIG}.tmp"}


@dataclass(frozen=True)
class Prepared:
    """A run whose input has been checked.

    Attributes:
        config: the configuration.
        directory: the run directory, absolute.
        corpus: the examples as text.
        checkpoint: the encoder to start from.
        data: what the tokenised examples depend on, as JSON.
    """

    config: Config
    directory: Path
    corpus: Corpus
    checkpoint: Checkpoint
    data: dict[str, Any]

    @property
    def task(self) -> Task:
        """The run's task, with the labels that its data have."""
        return self.corpus.task

    def find_data(self) -> Artifact | Miss:
        """The tokenised examples, if an earlier run has left them."""
        return find(self.directory / "data", self.data)


def prepare(config: Config) -> Prepared:
    """Load and check all input of a run, and that its directory is free or its own; writes nothing.

    Raises:
        UserError: anything is wrong with the data, the checkpoint or the run directory.
    """
    directory = _run_directory(config)
    _check_directory(directory, config)
    corpus = load_corpus(config.task, config.data, config.seed)
    checkpoint = find_checkpoint(config.model)
    # Workers may have another working directory.
    checkpoint = replace(checkpoint, path=checkpoint.path.absolute())
    _check_model(checkpoint, config, corpus.task)
    data = {
        "corpus": _corpus_hash(corpus),
        "labels": corpus.task.labels,
        "model": checkpoint.digest,
        "max_length": config.data.max_length,
        "selection": config.selection,
        "holdout": config.data.holdout if config.selection == "holdout" else None,
        "seed": config.seed,
    }
    return Prepared(config, directory, corpus, checkpoint, data)


def open_run(prepared: Prepared) -> dict[str, Columns]:
    """Enter the run directory, emptied if the run starts afresh; hold its lock.

    Returns:
        The splits `train`, `selection` and those of dev, tokenised now or in an earlier run.

    Raises:
        UserError: the directory has become another run's meanwhile, or cannot be written.
    """
    directory, config = prepared.directory, prepared.config
    _check_directory(directory, config)
    if config.fresh:
        _clear(directory)
    write_atomic(directory / CONFIG, to_yaml(config))
    if isinstance(prepared.find_data(), Miss):
        _tokenise(prepared)
    return load_splits(prepared)


def load_splits(prepared: Prepared) -> dict[str, Columns]:
    """The tokenised splits, which must be there."""
    return load_columns(prepared.directory / "data" / "columns.safetensors")


def _tokenise(prepared: Prepared) -> None:
    # Beside the columns, `rows.json` keeps which rows of the corpus train and selection are.
    config, corpus = prepared.config, prepared.corpus
    tokenizer: Any = load_tokenizer(prepared.checkpoint)
    length = config.data.max_length
    train = tokenize(corpus.train, tokenizer, length)
    dev = {name: tokenize(split, tokenizer, length) for name, split in corpus.dev.items()}
    if config.selection == "holdout":
        rows, held_out = split_holdout(
            train.labels, config.data.holdout, corpus.task.is_regression, config.seed
        )
        selection = train.take(held_out)
    else:
        rows, held_out = np.arange(len(train)), np.arange(0)
        selection = next(iter(dev.values()))
    splits = {"train": train.take(rows), "selection": selection, **dev}

    def write(draft: Path) -> Mapping[str, Any]:
        save_columns(splits, draft / "columns.safetensors")
        kept = {"train": rows.tolist(), "selection": held_out.tolist()}
        (draft / "rows.json").write_text(json.dumps(kept))
        return {"examples": {name: len(columns) for name, columns in splits.items()}}

    commit(prepared.directory / "data", "data", prepared.data, write)


def _run_directory(config: Config) -> Path:
    directory = Path(config.output)
    if not directory.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"output: {directory} is relative, and a Ray job runs in a throw-away copy of its "
            "working directory: what it writes there is lost; give an absolute path"
        )
    return directory.absolute()


def _check_directory(directory: Path, config: Config) -> None:
    try:
        if not directory.exists():
            return
        if not directory.is_dir():
            raise UserError(f"output: {directory} is a file; choose another directory")
        names = {entry.name for entry in directory.iterdir()}
    except OSError as error:
        raise UserError(
            f"output: {directory} cannot be read: {error.strerror}; choose another directory"
        ) from error
    if CONFIG in names:
        if not config.fresh:
            _check_same_run(directory / CONFIG, config)
    elif names - TRACES:
        raise UserError(
            f"output: {directory} is not empty and not a run (it has no {CONFIG}); "
            "choose another directory"
        )


def _check_same_run(path: Path, config: Config) -> None:
    try:
        old = load_config(path)
    except UserError as error:
        raise UserError(
            f"output: {path} cannot be read ({error}); start over with fresh=true or choose "
            "another output"
        ) from error
    changed = [
        f"  {key}: {before!r} there, {now!r} here"
        for key, before, now in differing_keys(to_dict(old), to_dict(config))
        if not key.startswith(FREE_KEYS)
    ]
    if changed:
        listed = "\n".join(changed)
        raise UserError(
            f"output: {path.parent} is another run:\n{listed}\n"
            "choose another output, or start over with fresh=true"
        )


def _check_model(checkpoint: Checkpoint, config: Config, task: Task) -> None:
    tokenizer: Any = load_tokenizer(checkpoint)
    model = load_encoder(checkpoint, task.num_labels, config.training.dropout).config
    if len(tokenizer) > model.vocab_size:
        raise UserError(
            f"model: the tokenizer in {checkpoint.path} knows {len(tokenizer)} tokens, the weights "
            f"{model.vocab_size}: they do not belong together"
        )
    if config.data.max_length > model.max_position_embeddings:
        raise UserError(
            f"data.max_length: {config.data.max_length} tokens are more than the model can take; "
            f"give at most {model.max_position_embeddings}"
        )


def _clear(directory: Path) -> None:
    """Delete what a run makes, but for its configuration, and nothing else."""
    try:
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
        for name in DIRECTORIES:
            for path in (directory / f"{name}{suffix}" for suffix in ("", ".tmp", ".old")):
                if path.exists():
                    shutil.rmtree(path)
    except OSError as error:
        raise UserError(
            f"fresh: {directory} cannot be emptied: {error}; choose another output"
        ) from error


def _corpus_hash(corpus: Corpus) -> str:
    splits = {"train": corpus.train, **corpus.dev}
    return fingerprint(
        {name: [list(split.texts), split.labels.tolist()] for name, split in splits.items()}
    )
