"""One door to every source: the hub, a GLUE directory, the user's files, the built-in demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.demo import demo_corpus
from bebert_ray.data.files import load_files
from bebert_ray.data.glue_tsv import load_glue_directory
from bebert_ray.data.holdout import subsample
from bebert_ray.data.hub import load_hub
from bebert_ray.data.tasks import CUSTOM, task_name
from bebert_ray.errors import UserError

if TYPE_CHECKING:
    from bebert_ray.config import DataConfig

__all__ = ["Corpus", "Split", "load_corpus"]


def load_corpus(task: str, data: DataConfig, seed: int) -> Corpus:
    """Load a task's training and dev examples as text.

    Args:
        task: A name that `bebert_ray.data.tasks.task_name` knows.
        data: Says where to read (``path``, ``dev_path``), how (``text_columns``, ``label_column``,
            ``kind``) and how many training examples to keep (``max_train``).
        seed: Of the choice of training examples, and of a dev split cut from the user's one file.
            The demo's sentences are the same for every seed.

    Raises:
        UserError: The source is missing, out of reach, or malformed.
    """
    corpus = _read(task_name(task), data, seed)
    if data.max_train is None:
        return corpus
    index = subsample(corpus.train.labels, data.max_train, corpus.task.is_regression, seed)
    return replace(corpus, train=corpus.train.take(index))


def _read(name: str, data: DataConfig, seed: int) -> Corpus:
    if name == CUSTOM:
        return load_files(data, seed)
    if name == "demo":
        if data.path is not None:
            raise UserError("data.path: the demo task is built in and reads no files; leave it out")
        return demo_corpus()
    if data.path is not None:
        return load_glue_directory(name, Path(data.path))
    return load_hub(name)
