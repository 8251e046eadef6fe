"""Perturbed examples of a file, in the format of AdvGLUE (Wang et al., arXiv 2111.02840)."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bebert_ray.data.corpus import Split
from bebert_ray.data.tasks import Task, task_name
from bebert_ray.errors import UserError


def read_examples(path: Path, task: Task) -> Split:
    """Read the examples of a task.

    The file holds a JSON object of lists by task, as AdvGLUE's `dev.json` does, or one list. An
    example is an object with the task's text columns, such as `sentence`, and a `label`: the index
    or the name of a class, or a score. Other keys are passed over.

    Args:
        path: the file.
        task: with the labels that the models know.

    Raises:
        UserError: the file cannot be read, or an example is wrong; the message tells which.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--file {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--file {path}: is not JSON: {str(error)[:100]}") from error
    examples = content if isinstance(content, list) else _of_task(content, path, task)
    if not isinstance(examples, list) or not examples:
        raise UserError(f"--file {path}: holds no list of examples of {task.name}")
    texts: list[list[str]] = [[] for _ in task.text_columns]
    labels = []
    for number, example in enumerate(examples):
        where = f"--file {path}: example {number} of {task.name}"
        if not isinstance(example, dict):
            raise UserError(f"{where} is no JSON object")
        for column, name in zip(texts, task.text_columns, strict=True):
            if not isinstance(text := example.get(name), str):
                raise UserError(f"{where} has no text {name!r}; it has {_listed(example)}")
            column.append(text)
        labels.append(_label(example.get("label"), task, where))
    kind = np.float32 if task.is_regression else np.int64
    return Split(tuple(texts), np.array(labels, kind))


def _of_task(content: Any, path: Path, task: Task) -> Any:
    if not isinstance(content, dict):
        raise UserError(f"--file {path}: holds neither a list of examples nor lists by task")
    for name, examples in content.items():
        with suppress(UserError):
            if task_name(name) == task.name:
                return examples
    raise UserError(f"--file {path}: has no examples of {task.name}; it has {_listed(content)}")


def _label(value: Any, task: Task, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if task.labels is None and np.isfinite(value):
            return float(value)
        if task.labels is not None and value in range(len(task.labels)):
            return int(value)
    if task.labels is not None and str(value) in task.labels:
        return task.labels.index(str(value))
    wanted = "a score" if task.labels is None else f"one of {', '.join(task.labels)[:100]}"
    raise UserError(f"{where} has the label {str(value)[:40]!r}; give {wanted}, or its index")


def _listed(keys: Any) -> str:
    return ", ".join(map(str, keys))[:100] or "nothing"
