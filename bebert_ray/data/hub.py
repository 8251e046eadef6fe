"""GLUE from the Hugging Face hub, or from the cache that an earlier download left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    import datasets

    task = TASKS[name]
    with _offline_unless_reachable() as offline:
        try:
            splits = datasets.load_dataset(REPOSITORY, name)
        except Exception as error:  # whatever the HTTP client below raises, to the user it is this
            problem = (
                "the hub cannot be reached (or is switched off by HF_HUB_OFFLINE), and the task is "
                "not in the cache"
                if offline
                else f"the hub's copy failed to load: {error}"
            )
            raise UserError(
                f"{REPOSITORY} ({name}): {problem}. To do without the hub, set data.path to a "
                f"directory in the official GLUE layout, which holds {task.directory}/train.tsv"
            ) from error
    train = _to_split(task, splits["train"])
    dev = {
        split: _to_split(task, splits[split.replace("dev", "validation")])
        for split in task.dev_splits
    }
    return Corpus(task, train, dev)


def _to_split(task: Task, dataset: Dataset) -> Split:
    labels = np.asarray(dataset["label"][:], np.float32 if task.is_regression else np.int64)
    return Split(tuple(dataset[column][:] for column in task.text_columns), labels)


@contextmanager
def _offline_unless_reachable() -> Iterator[bool]:
    """Switch `datasets` to its cache, for the block, when the hub gives no sign of life.

    Left alone, the library tries again for some 20 seconds before it gives up.
    """
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or not is_reachable(config.HF_ENDPOINT)
    try:
        yield config.HF_HUB_OFFLINE
    finally:
        config.HF_HUB_OFFLINE = before
