"""All that can be known and checked before any work starts: the data, the checkpoint, the run directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from bebert_ray.models.bert import Checkpoint, find_checkpoint, load_tokenizer
from bebert_ray.storage import Artifact, commit, find, fingerprint, write_atomic

# Keys that a run may change and go on with what it has: they touch the members alone, or no figure.
FREE_KEYS = ("ensemble.", "member.", "resources.", "output", "fresh", "training.eval_batch_size")
# What a run leaves in its directory besides the artifacts.
RUN_FILES = ("config.yaml", "metrics.jsonl", "results.json", "scores.png")
RUN_DIRECTORIES = ("data", "teacher", "half", "ternary", "split", "members", "weights")


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

    def stage_inputs(self, stage: str, parents: Mapping[str, Artifact]) -> dict[str, Any]:
        """All that a stage's outcome depends on, as JSON; `parents` are the artifacts before it."""
        config = self.config
        training = asdict(config.training)
        del training["eval_batch_size"]
        inputs: dict[str, Any] = {
            "data": fingerprint(self.data),
            "seed": config.seed,
            "training": training,
            "parents": {name: parents[name].digest for name in _PARENTS[stage]},
        }
        match stage:
            case "teacher":
                inputs |= {"model": self.checkpoint.digest, "teacher": asdict(config.teacher)}
            case "half":
                inputs |= {"width": config.width, "half": asdict(config.half)}
            case "ternary":
                inputs |= {"bits": config.bits, "ternary": asdict(config.ternary)}
        return inputs

    def member_inputs(
        self, member: int, sample_weight: str, parents: Mapping[str, Artifact]
    ) -> dict[str, Any]:
        """As `stage_inputs`, for a member that trains with the weights whose hash is given."""
        ensemble, settings = self.config.ensemble, asdict(self.config.member)
        if ensemble.strategy != "C":
            del settings["hidden_epochs"], settings["hidden_learning_rate"]
        return self.stage_inputs("member", parents) | {
            "member": member,
            "settings": settings,
            "strategy": ensemble.strategy,
            "use_of_weight": ensemble.sample_weight,
            "sample_weight": sample_weight,
        }


_PARENTS: dict[str, tuple[str, ...]] = {
    "teacher": (),
    "half": ("teacher",),
    "ternary": ("half",),
    "split": ("ternary",),
    "member": ("half", "split"),
}


def prepare(config: Config) -> Prepared:
    """Load and check all input of a run, and that its directory is free or its own; writes nothing.

    Raises:
        UserError: anything is wrong with the data, the checkpoint or the run directory.
    """
    directory = _run_directory(config)
    corpus = load_corpus(config.task, config.data, config.seed)
    checkpoint = find_checkpoint(config.model)
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


def open_run(prepared: Prepared) -> None:
    """Make the run directory, empty it if the run starts afresh, and write its configuration."""
    directory = prepared.directory
    if prepared.config.fresh:
        for name in RUN_DIRECTORIES:
            shutil.rmtree(directory / name, ignore_errors=True)
        for name in RUN_FILES:
            (directory / name).unlink(missing_ok=True)
    write_atomic(directory / "config.yaml", to_yaml(prepared.config))


def tokenised(prepared: Prepared) -> dict[str, Columns]:
    """The splits `train`, `selection` and those of dev, tokenised now or in an earlier run.

    Their rows in the source, after `data.max_train`, are kept beside them (`rows.json`).
    """
    path = prepared.directory / "data"
    if not isinstance(find(path, prepared.data), Artifact):
        config, corpus = prepared.config, prepared.corpus
        tokenizer = load_tokenizer(prepared.checkpoint)
        length = config.data.max_length
        train = tokenize(corpus.train, tokenizer, length)
        dev = {name: tokenize(split, tokenizer, length) for name, split in corpus.dev.items()}
        rows = np.arange(len(train))
        if config.selection == "holdout":
            rows, held_out = split_holdout(
                train.labels, config.data.holdout, corpus.task.is_regression, config.seed
            )
            selection = train.take(held_out)
        else:
            held_out, selection = np.arange(0), next(iter(dev.values()))
        splits = {"train": train.take(rows), "selection": selection, **dev}

        def write(draft: Path) -> Mapping[str, Any]:
            save_columns(splits, draft / "columns.safetensors")
            kept = {"train": rows.tolist(), "selection": held_out.tolist()}
            (draft / "rows.json").write_text(json.dumps(kept))
            return {"examples": {name: len(columns) for name, columns in splits.items()}}

        commit(path, "data", prepared.data, write)
    return load_columns(path / "columns.safetensors")


def _run_directory(config: Config) -> Path:
    directory = Path(config.output)
    if not directory.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"output: {directory} is relative, and a Ray job runs in a throw-away copy of its working "
            "directory: what it writes there is lost; give an absolute path"
        )
    directory = directory.absolute()
    if not directory.exists():
        return directory
    if not directory.is_dir():
        raise UserError(f"output: {directory} is a file; choose another directory")
    old = directory / "config.yaml"
    if not old.exists():
        if any(entry.name != ".lock" for entry in directory.iterdir()):
            raise UserError(
                f"output: {directory} is not empty and not a run (it has no config.yaml); "
                "choose another directory"
            )
        return directory
    if not config.fresh:
        _check_same_run(old, config)
    return directory


def _check_same_run(path: Path, config: Config) -> None:
    try:
        changed = differing_keys(to_dict(load_config(path)), to_dict(config))
    except UserError as error:
        raise UserError(
            f"output: {path} cannot be read ({error}); start over with fresh=true or choose "
            "another output"
        ) from error
    changed = [change for change in changed if not change[0].startswith(FREE_KEYS)]
    if changed:
        listed = "\n".join(f"  {key}: {old!r} there, {new!r} here" for key, old, new in changed)
        raise UserError(
            f"output: {path.parent} is another run:\n{listed}\n"
            "choose another output, or start over with fresh=true"
        )


def _corpus_hash(corpus: Corpus) -> str:
    splits = {"train": corpus.train, **corpus.dev}
    return fingerprint(
        {name: [list(split.texts), split.labels.tolist()] for name, split in splits.items()}
    )
