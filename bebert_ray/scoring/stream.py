"""Score all parts with Ray Data: a pool of processes, each with the model and one part at a time.

Ray Data streams the parts, not their rows: a process reads its part, scores it and writes it. So a
process holds a few thousand rows, and no row passes through the object store. Ray Data places the
pool on the machines, restarts processes, and gives the parts of a dead process to others.

Its own readers and writers are not used. They stop at the first row that cannot be parsed, and do
not number rows; which rows share an output file depends on how blocks were split and merged; files
are not moved into place when they are complete, so that names do not tell what is done; and a
resume needs a column of unique identifiers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.data.block import BlockAccessor

from bebert_ray.cluster.worker import worker_environment
from bebert_ray.errors import RunError, UserError
from bebert_ray.scoring.classifier import Classifier
from bebert_ray.scoring.parts import Part
from bebert_ray.scoring.score import Job, score_part


def scored(
    job: Job, parts: list[Part], workers: int | None = None, here: bool = False
) -> Iterator[tuple[Part, int]]:
    """Score parts on the Ray that this process is connected to.

    Args:
        job: What all parts have in common.
        parts: At least one.
        workers: Number of processes; by default one a GPU, or one a CPU if there are none.
        here: On this machine alone, which has the input on a disk of its own.

    Yields:
        Each part when it is done, and how many of its rows are bad.

    Raises:
        UserError: The model cannot be loaded, or the input not be read; or there is no CPU.
        RunError: No part was done for half an hour, as when a part needs more memory than there is
            and its process dies again and again; the output cannot be written; or Ray failed.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the caller reports errors
    placed: dict[str, Any] = {}
    has = ray.cluster_resources()
    if here:
        node = ray.get_runtime_context().get_node_id()
        has = next(each["Resources"] for each in ray.nodes() if each["NodeID"] == node)
        placed = {"label_selector": {"ray.io/node-id": node}}
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    if not cpus:
        raise UserError(
            "rows in memory are scored on this machine, and Ray has no CPU of it; write them to a "
            "file that all machines see, and give its path"
            if here
            else "the cluster has no CPU at the moment; give the command again when it has machines"
        )
    size = min(workers or gpus or cpus, len(parts), cpus if here else len(parts))
    # As JSON: Arrow would give each part the partition columns of all.
    entries = [{"part": json.dumps(asdict(part))} for part in parts]
    rows = ray.data.from_items(entries, override_num_blocks=len(parts))
    scorer: Any = _Scorer  # Ray Data makes one a process; its type hints know functions alone
    outcomes = rows.map(
        scorer,
        fn_constructor_args=(job,),
        compute=ActorPoolStrategy(size=size),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        runtime_env={"env_vars": worker_environment(1, gpu=1 if gpus else 0)},
        **placed,
    )
    by_name = {part.name: part for part in parts}
    for outcome in _told(_rows_of(outcomes)):
        if outcome["error"]:
            raise (UserError if outcome["is_input"] else RunError)(outcome["error"])
        yield by_name[outcome["name"]], outcome["bad"]


def _rows_of(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, without the threads of `Dataset.iter_rows`.

    These outlive a stream that is not read to its end; if one of them calls Ray after its shutdown,
    Ray ends this process without a message.
    """
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.block_refs:
            yield from BlockAccessor.for_block(ray.get(block)).iter_rows(public_row_format=True)


def _told(outcomes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from outcomes
    except Exception as error:  # Ray Data has no base class for what it raises
        raise RunError(f"scoring failed: {error}") from error


class _Scorer:
    """A process of the pool. The model is loaded with the first part."""

    def __init__(self, job: Job):
        torch.set_num_threads(1)
        self._job = job
        self._classifier: Classifier | None = None

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Score a part; an error of the input is in the outcome, since Ray would wrap it."""
        part = Part.parse(json.loads(entry["part"]))
        bad, problem, is_input = 0, "", True
        try:
            if self._classifier is None:
                self._classifier = Classifier(
                    self._job.model, self._job.batch_size, self._job.cascade
                )
            bad = score_part(self._job, self._classifier, part)
        except (UserError, RunError) as error:
            problem, is_input = str(error), isinstance(error, UserError)
        return {"name": part.name, "bad": bad, "error": problem, "is_input": is_input}
