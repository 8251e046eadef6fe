"""The augmented copies of a run, made in parts by Ray tasks over whatever the cluster has."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from bebert_ray.cluster.resources import Allotments
from bebert_ray.cluster.spread import spread
from bebert_ray.data.copies import Copies
from bebert_ray.pipeline.augmentation import (
    PART,
    Job,
    find_augmented,
    leave_augmented,
    load_copies,
    make_part,
    open_job,
)
from bebert_ray.pipeline.layout import AUGMENTED
from bebert_ray.pipeline.ownership import clear_parts
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.storage import Artifact

REPORT_EVERY = 10.0  # seconds


def make_augmented(
    prepared: Prepared, report: Callable[[dict[str, Any]], None], allotments: Allotments
) -> Copies | None:
    """The augmented copies of a run; made now, but for parts that are there, unless they all are.

    Each part is a task of one CPU, and of a GPU as a stage gets it if a masked language model is
    asked. Which process makes a part, and how many there are, makes no difference to what is in it.

    Args:
        prepared: the run, whose data are there and whose lock the caller holds.
        report: told of the progress.
        allotments: what the workers of the run get of the cluster.

    Returns:
        The tokenised copies; None if the run has none.

    Raises:
        UserError: the masked language model or the word vectors cannot be used, no word can be
            replaced, or the run directory cannot be written.
        RunError: a part could not be made.
    """
    if prepared.augmentation is None:
        return None
    if not isinstance(find_augmented(prepared), Artifact):
        here = {"node": socket.gethostname(), "pid": os.getpid()}
        report({"kind": "start", "stage": AUGMENTED, **here})
        start, job = time.monotonic(), open_job(prepared)
        gpu = allotments.stage.gpu if job.replacer.masked is not None else 0.0
        _make_parts(job, gpu, report)
        artifact = leave_augmented(prepared, job, time.monotonic() - start)
        clear_parts(job.place)
        facts = artifact.facts
        text = f"{facts['copies']} copies of {len(job.examples)} examples"
        if facts["unchanged"]:
            text += f"; {facts['unchanged']} examples have none, no word of theirs is replaced"
        report({"kind": "note", "stage": AUGMENTED, "text": text})
        report({"kind": "done", "stage": AUGMENTED, "round": None})
    return load_copies(prepared)


def _make_parts(job: Job, gpu: float, report: Callable[[dict[str, Any]], None]) -> None:
    missing = job.missing()
    start = last = time.monotonic()
    for made, _ in enumerate(spread(make_part, job, missing, AUGMENTED, gpu), start=1):
        now = time.monotonic()
        if made == len(missing) or now - last > REPORT_EVERY:
            last = now
            report(
                {
                    "kind": "parts",
                    "stage": AUGMENTED,
                    "step": len(job.parts) - len(missing) + made,
                    "steps": len(job.parts),
                    "examples_per_second": min(made * PART, len(job.examples)) / (now - start),
                }
            )
