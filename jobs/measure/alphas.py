"""How many weightings of an ensemble's members the search for alphas tries in a second."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bebert_ray.boosting.alphas import search_alphas
from bebert_ray.boosting.vote import combine
from bebert_ray.data.metrics import evaluate, primary
from bebert_ray.data.tasks import TASKS

METRICS = {"accuracy": "mrpc", "matthews": "cola", "pearson": "stsb"}  # and a task that has it


def alphas(members: int, examples: int, repeat: int) -> dict[str, Any]:
    """Search the alphas of members whose logits are made up.

    Args:
        members: that are weighted.
        examples: that they are scored on.
        repeat: searches for each metric, of other logits each.

    Returns:
        For each metric, medians of the evaluations in a second, of the score with uniform alphas,
        and with those found.
    """
    rows = []
    labels: NDArray[Any]
    logits: NDArray[Any]
    for metric, name in METRICS.items():
        task = TASKS[name]
        speeds, uniform, found = [], [], []
        for seed in range(repeat):
            rng = np.random.default_rng(seed)
            if task.is_regression:
                labels = rng.uniform(0, 5, examples).astype(np.float32)
                logits = labels[None, :, None] + rng.normal(scale=2, size=(members, examples, 1))
            else:
                labels = rng.integers(task.num_labels, size=examples)
                logits = rng.normal(size=(members, examples, task.num_labels))
                logits[:, np.arange(examples), labels] += 2 * rng.random((members, 1))
            logits = logits.astype(np.float32)
            begin = time.perf_counter()
            weighting = search_alphas(task, logits, labels, [], seed)
            speeds.append(weighting.evaluations / (time.perf_counter() - begin))
            found.append(weighting.score)
            even = combine(logits, np.ones(members))
            uniform.append(evaluate(task, even, labels)[primary(task)])
        rows.append(
            {
                "metric": metric,
                "evaluations_per_second": round(median(speeds)),
                "uniform": round(median(uniform), 4),
                "found": round(median(found), 4),
            }
        )
    return {"benchmark": "alphas", "members": members, "examples": examples, "rows": rows}


def print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    """A line for each metric."""
    table = Table()
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "metric" else "right")
    for row in rows:
        table.add_row(
            *(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.values())
        )
    console.print(table)
