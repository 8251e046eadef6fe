"""The checks before a run: its data, its checkpoint, its directory; and the tokenised examples."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig

from bebert_ray.augment.vectors import check_vectors
from bebert_ray.config import Config, differing_keys, to_dict
from bebert_ray.config.recipes import NO_FIGURE
from bebert_ray.config.schema import Compile, Precision
from bebert_ray.data.columns import Columns, load_columns, save_columns, tokenize
from bebert_ray.data.corpus import Corpus
from bebert_ray.data.holdout import split_holdout
from bebert_ray.data.sources import Source, load_corpus
from bebert_ray.data.tasks import Task
from bebert_ray.errors import UserError
from bebert_ray.nn.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_classifier,
    load_encoder,
    load_tokenizer,
)
from bebert_ray.nn.compiled import find_compiler
from bebert_ray.nn.vocabulary import check_ids, check_special
from bebert_ray.pipeline.config_file import keep_config, kept_config
from bebert_ray.pipeline.layout import COLUMNS, CONFIG, DATA, LEFT, LOCK, ROWS, Layout
from bebert_ray.pipeline.memory import EncoderShape
from bebert_ray.pipeline.ownership import check_owned, clear_run
from bebert_ray.pipeline.results import check_results
from bebert_ray.storage import (
    Artifact,
    Location,
    Miss,
    commit,
    exists,
    fetch,
    find,
    fingerprint,
    names,
    sweep,
)
from bebert_ray.storage.artifacts import RECORD
from bebert_ray.storage.records import NewerVersion
from bebert_ray.training.encoder import leave_encoder
from bebert_ray.training.precision import fast_precision

AUGMENTATION_METHOD = 1  # raised whenever the same settings give other copies

# Keys that may change in a run directory: they affect the members alone, or no figure.
FREE_KEYS = (
    *("ensemble.", "member.", "export.", "resources.", "output", "fresh"),
    *(f"training.{key}" for key in NO_FIGURE),
)


@dataclass(frozen=True)
class Prepared:
    """A run whose input has been checked.

    Attributes:
        config: the configuration.
        directory: the run directory.
        corpus: the examples as text.
        checkpoint: the pretrained encoder.
        data: all that the tokenised examples depend on, as JSON.
        masked: the masked language model that augments the examples, if there is one.
        augmentation: all that the augmented copies depend on, as JSON; None if there are none.
        is_trial: whether it is a trial of a sweep. A trial ends with its members: it trains
            nothing to compare them with, and packs no model.
    """

    config: Config
    directory: Location
    corpus: Corpus
    checkpoint: Checkpoint
    data: dict[str, Any]
    masked: Checkpoint | None = None
    augmentation: dict[str, Any] | None = None
    is_trial: bool = False

    @property
    def task(self) -> Task:
        """The task, with the labels that the data have."""
        return self.corpus.task

    @property
    def shape(self) -> EncoderShape:
        """The shape of the encoder, as far as its layers are kept."""
        config = BertConfig.from_pretrained(self.checkpoint.path, local_files_only=True)
        shape = EncoderShape.of(config)
        return replace(shape, layers=self.config.layers or shape.layers)

    @property
    def layout(self) -> Layout:
        """Where each thing is in the run directory."""
        return Layout(self.directory)

    def find_data(self) -> Artifact | Miss:
        """The tokenised examples, if they are there."""
        return find(self.layout.data, self.data)


def prepare(config: Config, tables: Mapping[str, Any] | None = None) -> Prepared:
    """Load and check all input of a run, and its directory; writes nothing.

    `auto` is resolved here, of `training.precision` and `training.compile`: what the run began
    with if it has begun, else what is fast on this machine.

    Args:
        config: of the run.
        tables: examples in memory in place of files, see `data.sources.load_corpus`.

    Raises:
        UserError: the data, the checkpoint or the run directory cannot be used.
    """
    directory = _run_directory(config)
    config = _for_machine(config, directory)
    _check_directory(directory, config)
    data_config = config.data
    source = Source(
        path=data_config.path,
        dev_path=data_config.dev_path,
        text_columns=data_config.text_columns,
        label_column=data_config.label_column,
        kind=data_config.kind,
        max_train=data_config.max_train,
    )
    corpus = load_corpus(config.task, source, config.seed, tables)
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
    masked, augmentation = _augmentation(config, data)
    return Prepared(config, directory, corpus, checkpoint, data, masked, augmentation)


def _augmentation(
    config: Config, data: dict[str, Any]
) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """The masked language model, if there is one, and all that the augmented copies depend on."""
    augment = config.data.augment
    if not augment.copies:
        return None, None
    inputs = asdict(augment) | {"data": fingerprint(data), "method": AUGMENTATION_METHOD}
    del inputs["share"], inputs["per_member"]
    masked = None
    if augment.model is not None:
        try:
            masked = find_checkpoint(augment.model)
        except UserError as error:
            raise UserError(f"data.augment.{error}") from error
        masked = replace(masked, path=masked.path.absolute())
        inputs["model"] = masked.digest
    if augment.vectors is not None:
        inputs["vectors"] = check_vectors(Path(augment.vectors))
    return masked, inputs


def _for_machine(config: Config, directory: Location) -> Config:
    training = config.training
    precision: Precision = fast_precision(config.resources.member.gpu)
    compile: Compile = "auto"
    if not config.fresh:
        with suppress(FileNotFoundError, UserError):  # a damaged one is reported below
            kept = kept_config(directory).training
            precision = kept.precision
            # A run of a version without the key began without a compiler.
            compile = "off" if kept.compile == "auto" else kept.compile
    if training.precision == "auto":
        training = replace(training, precision=precision)
    if training.compile == "auto":
        if compile == "auto":
            # Where products are in fp32 they take most of a step, and compiling gains next to
            # nothing; see docs/how-it-works.md.
            worth = training.precision == "bf16" and find_compiler() is not None
            compile = "on" if worth else "off"
        training = replace(training, compile=compile)
    return replace(config, training=training)


def open_run(prepared: Prepared) -> dict[str, Columns]:
    """Prepare the run directory, whose lock the caller holds; empty it if `fresh` is set.

    Drafts of processes that were killed are deleted.

    Returns:
        The splits `train`, `selection` and those of dev, tokenised now or by an earlier run.

    Raises:
        UserError: the directory belongs to another run now, or cannot be written.
    """
    directory, config = prepared.directory, prepared.config
    _check_directory(directory, config)
    if directory.is_local:
        directory.local.mkdir(parents=True, exist_ok=True)
    sweep(directory)
    if config.fresh:
        clear_run(directory)
    keep_config(config, directory)
    leave_encoder(prepared.checkpoint, directory)
    if isinstance(prepared.find_data(), Miss):
        _tokenise(prepared)
    return load_splits(prepared)


def load_splits(prepared: Prepared) -> dict[str, Columns]:
    """The tokenised splits, by name; they must be there."""
    return load_columns(fetch(prepared.layout.data).path / COLUMNS)


def _tokenise(prepared: Prepared) -> None:
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
        save_columns(splits, draft / COLUMNS)
        kept = {"train": rows.tolist(), "selection": held_out.tolist()}
        (draft / ROWS).write_text(json.dumps(kept))
        return {"examples": {name: len(columns) for name, columns in splits.items()}}

    commit(prepared.layout.data, DATA, prepared.data, write)


def _run_directory(config: Config) -> Location:
    output = config.output
    relative = "://" not in output and not Path(output).is_absolute()
    if relative and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"output: {output} is relative, and a Ray job runs in a throw-away copy of its "
            "working directory: what it writes there is lost; give an absolute path or a URI"
        )
    try:
        return Location.parse(output).rooted()
    except UserError as error:
        raise UserError(f"output: {error}") from error


def _check_directory(directory: Location, config: Config) -> None:
    """Refuse a directory that holds anything but this run, or a run to start over."""
    try:
        there = names(directory) - {LOCK}
    except UserError as error:
        raise UserError(f"output: {error}") from error
    if CONFIG in there:
        # Half of all projects have a config.yaml: with fresh=true, theirs must not be deleted.
        check_owned(directory)
        check_results(directory)
        if not config.fresh:
            _check_same_run(directory, config)
    # Without its configuration a run is known by its data.
    elif there and not (there <= LEFT and exists(directory / DATA / RECORD)):
        raise UserError(
            f"output: {directory} is not empty and holds no run (it has no {CONFIG}); "
            "choose another directory"
        )
    elif there:
        check_owned(directory, without_config=True)


def _check_same_run(directory: Location, config: Config) -> None:
    try:
        old = kept_config(directory)
    except NewerVersion:
        raise
    except UserError as error:
        raise UserError(
            f"output: {error}\nNothing else is lost: delete that file, and give the same command "
            "again. What is there is used as far as it was made with the same settings."
        ) from error
    changed = [
        f"  {key}: {before!r} there, {now!r} here"
        for key, before, now in differing_keys(to_dict(old), to_dict(config))
        if not key.startswith(FREE_KEYS)
    ]
    if changed:
        listed = "\n".join(changed)
        raise UserError(
            f"output: {directory} is another run:\n{listed}\n"
            "choose another output, or start over with fresh=true"
        )


def _check_model(checkpoint: Checkpoint, config: Config, task: Task) -> None:
    tokenizer: Any = load_tokenizer(checkpoint)
    check_special(tokenizer, checkpoint.path)
    dropout = config.training.dropout
    if config.teacher.epochs == 0:
        model = load_classifier(checkpoint, task.labels, dropout).config
    else:
        model = load_encoder(checkpoint, task.num_labels, dropout).config
    check_ids(tokenizer, model, f"model: {checkpoint.path}", pairs=len(task.text_columns) == 2)
    if config.layers is not None and config.layers > model.num_hidden_layers:
        raise UserError(
            f"layers: {config.layers} are more than the checkpoint has; give at most "
            f"{model.num_hidden_layers}, or leave it out to keep them all"
        )
    if config.data.max_length > model.max_position_embeddings:
        raise UserError(
            f"data.max_length: {config.data.max_length} tokens are more than the model can take; "
            f"give at most {model.max_position_embeddings}"
        )


def _corpus_hash(corpus: Corpus) -> str:
    splits = {"train": corpus.train, **corpus.dev}
    return fingerprint(
        {name: [list(split.texts), split.labels.tolist()] for name, split in splits.items()}
    )
