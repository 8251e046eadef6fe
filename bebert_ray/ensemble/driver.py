"""The run: what is there already, what is to be done, and the ensemble that comes of it.

No Ray here: whoever calls says how steps are done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from bebert_ray.config import to_dict
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate
from bebert_ray.ensemble.aggregate import staged
from bebert_ray.ensemble.members import Ensemble, member_steps
from bebert_ray.ensemble.prepare import Prepared, load_splits
from bebert_ray.ensemble.steps import Step, stage_step
from bebert_ray.report import Model, Results
from bebert_ray.storage import Artifact, Miss
from bebert_ray.training.stages import STAGES, load_logits, versions

Do = Callable[[list[Step]], list[Artifact]]
"""Has steps done that need not wait for each other, where they are not done yet."""


def make_plan(prepared: Prepared) -> dict[str, str]:
    """What will happen to each step, by name; changes nothing.

    Returns:
        "done", "run" (and why, if something is there), or "not needed".
    """
    plan = dict.fromkeys(["data", *STAGES, *member_steps(prepared.config.ensemble)], "run")

    def look(steps: list[Step]) -> list[Artifact]:
        found = {step.name: step.find() for step in steps}
        plan.update({name: _state(known) for name, known in found.items()})
        artifacts = [known for known in found.values() if isinstance(known, Artifact)]
        if len(artifacts) < len(steps):
            raise _Unfinished
        return artifacts

    if prepared.config.fresh:
        return plan
    data = prepared.find_data()
    plan["data"] = _state(data)
    if isinstance(data, Artifact):
        with suppress(_Unfinished):
            _walk(prepared, load_splits(prepared), look)
            # The ensemble is complete: boosting has ended before the steps not looked at.
            plan |= {name: "not needed" for name, state in plan.items() if state == "run"}
    return plan


def run(prepared: Prepared, splits: dict[str, Columns], do: Do) -> Results:
    """Take every step to the ensemble, and evaluate it; hold the lock of the run directory.

    Args:
        prepared: the run.
        splits: its examples by split.
        do: see `Do`; such as `crew.Crew.do`.

    Raises:
        RunError: a step failed.
    """
    ensemble = _walk(prepared, splits, do)
    members, config = ensemble.members, prepared.config
    scores = _staged_scores(ensemble)
    return Results(
        run=str(prepared.directory),
        task=prepared.task.name,
        metrics=prepared.task.metrics,
        dev=tuple(prepared.corpus.dev),
        selection=config.selection,
        seed=config.seed,
        stages={name: _model(name, found) for name, found in ensemble.parents.items()},
        members=[
            replace(_model(member.name, member.artifact), alpha=member.alpha, error=member.error)
            for member in members
        ],
        staged=[{split: scores[split][m] for split in splits} for m in range(len(members))],
        note=ensemble.note,
        config=to_dict(config),
        versions=versions() | {"ray": version("ray")},
    )


class _Unfinished(Exception):
    """A plan has come to a step that is still to be done."""


def _walk(prepared: Prepared, splits: dict[str, Columns], do: Do) -> Ensemble:
    """From the first stage to the last member, all in the order they need."""
    parents: dict[str, Artifact] = {}
    for stage in STAGES:
        [parents[stage]] = do([stage_step(prepared, stage, parents)])
    ensemble = Ensemble(prepared, splits, parents)
    while not ensemble.finished:
        ensemble.advance(do(ensemble.due()))
    return ensemble


def _staged_scores(ensemble: Ensemble) -> dict[str, list[dict[str, float]]]:
    """Metrics of the ensemble of the first 1, 2, ... members, by split."""
    alphas = [member.alpha for member in ensemble.members]
    logits = [load_logits(member.artifact.path) for member in ensemble.members]
    return {
        split: [
            evaluate(ensemble.prepared.task, scores, columns.labels)
            for scores in staged(np.stack([member[split] for member in logits]), alphas)
        ]
        for split, columns in ensemble.splits.items()
    }


def _model(name: str, artifact: Artifact) -> Model:
    facts = artifact.facts
    return Model(name, facts["scores"], facts["bits"], facts["seconds"])


def _state(found: Artifact | Miss) -> str:
    if isinstance(found, Artifact):
        return "done"
    return "run" if found.reason == "absent" else f"run ({found.reason})"
