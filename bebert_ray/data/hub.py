"""GLUE from the Hugging Face hub, or from the cache that an earlier download left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tasks import TASKS, Task
from bebert_ray.errors import UserError
from bebert_ray.hub import is_reachable

if TYPE_CHECKING:
    from datasets import Dataset

REPOSITORY = "nyu-mll/glue"


def load_hub(name: str) -> Corpus:
    """Load a GLUE task from the hub, or from the cache where ``HF_HUB_OFFLINE=1`` or it is down.

    Raises:
        UserError: The hub cannot be reached and the task is not in the cache.
    """
    task = TASKS[name]
    splits = _load(
        (REPOSITORY, name),
        f"directory in the official GLUE layout, which holds {task.directory}/train.tsv",
    )
    train = _to_split(task, splits["train"])
    dev = {
        split: _to_split(task, splits[split.replace("dev", "validation")])
        for split in task.dev_splits
    }
    return Corpus(task, train, dev)


def load_dataset(name: str) -> Any:
    """Load a dataset's splits from the hub or the cache: ``owner/name``, or ``owner/name:config``.

    Raises:
        UserError: As `load_hub`.
    """
    repository, _, config = name.partition(":")
    return _load(
        (repository, config) if config else (repository,),
        "file of yours (CSV, TSV, JSONL or Parquet)",
    )


def _load(arguments: tuple[str, ...], instead: str) -> Any:
    import datasets

    with _offline_unless_reachable() as offline:
        try:
            return datasets.load_dataset(*arguments)
        except Exception as error:  # whatever the HTTP client below raises, to the user it is this
            reason = (str(error).splitlines() or [repr(error)])[0][:120]
            problem = (
                "the hub cannot be reached (or is switched off by HF_HUB_OFFLINE), and the data "
                "are not in the cache"
                if offline
                else f"the hub's copy failed to load: {reason}"
            )
            raise UserError(
                f"{arguments[0]}{''.join(f' ({name})' for name in arguments[1:])}: {problem}. To "
                f"do without the hub, set data.path to a {instead}"
            ) from error


def _to_split(task: Task, dataset: Dataset) -> Split:
    labels = np.asarray(dataset["label"][:], np.float32 if task.is_regression else np.int64)
    return Split(tuple(dataset[column][:] for column in task.text_columns), labels)


@contextmanager
def _offline_unless_reachable() -> Iterator[bool]:
    """Switch `datasets` to its cache, for the block, when the hub does not answer.

    Left alone, the library tries again for some 20 seconds before it gives up.
    """
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or not is_reachable(config.HF_ENDPOINT)
    try:
        yield config.HF_HUB_OFFLINE
    finally:
        config.HF_HUB_OFFLINE = before
