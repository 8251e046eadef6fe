"""The run: what is there already, what is to be done, and the ensemble that comes of it.

No Ray here: whoever calls says how steps are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from bebert_ray.boosting.vote import combine, staged
from bebert_ray.config import to_dict
from bebert_ray.config.recipes import kind_of
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate, is_no_better_than_chance
from bebert_ray.pipeline.layout import DATA, MODEL
from bebert_ray.pipeline.members import Ensemble, member_steps
from bebert_ray.pipeline.prepare import Prepared, load_splits
from bebert_ray.pipeline.results import Model, Packed, Results
from bebert_ray.pipeline.steps import Step, model_step, stage_step
from bebert_ray.storage import Artifact, Miss, fetch, names
from bebert_ray.training.work import Logits, load_logits, versions


class Walk(Protocol):
    """Says which steps are due: a `Run`, or one that is watched or ends early."""

    def start(self) -> list[Step]:
        """The steps to begin with."""

    def advance(
        self, step: Step, artifact: Artifact, logits: Logits, new: bool = True
    ) -> list[Step]:
        """The steps that can be taken now that one is done, and could not before."""


class Run:
    """The steps of a run, in the order they need: begin with `start`, `advance` with what is made.

    Args:
        prepared: the run.
        splits: its examples by split.
        report: told, in events, of errors and alphas.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: dict[str, Columns],
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ):
        self.prepared, self.splits = prepared, splits
        self.kind = kind_of(prepared.config)
        self.parents: dict[str, Artifact] = {}
        self.model: Artifact | None = None
        self._report = report
        self._ensemble: Ensemble | None = None

    @property
    def ensemble(self) -> Ensemble:
        """The members; there once the shared stages are."""
        if self._ensemble is None:
            raise RuntimeError("the shared stages are not done")
        return self._ensemble

    @property
    def trained(self) -> bool:
        """Whether all members are there."""
        return self._ensemble is not None and self._ensemble.finished

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.trained and (self.model is not None or not self._exports)

    @property
    def _exports(self) -> bool:
        return self.prepared.config.export.remainder != "none"

    def start(self) -> list[Step]:
        """The steps to begin with."""
        return [stage_step(self.prepared, self.kind.stages[0], {})]

    def advance(
        self, step: Step, artifact: Artifact, logits: Logits, new: bool = True
    ) -> list[Step]:
        """Take in what a step has made; logits are needed of members alone.

        What comes of a `new` step is reported.

        Returns:
            The steps that can be taken now, and could not before.
        """
        if step.kind == "model":
            self.model = artifact
            return []
        if step.member is not None:
            trained, due = self.trained, self.ensemble.advance(step, artifact, logits, new)
            return due + self._last() if self.trained and not trained else due
        self.parents[step.name] = artifact
        for stage in self.kind.stages:
            if stage.name not in self.parents:
                return [stage_step(self.prepared, stage, self.parents)]
        self._ensemble = Ensemble(self.prepared, self.splits, self.parents, self._report)
        return self._ensemble.start()

    def _last(self) -> list[Step]:
        """The step that is due once all members are there."""
        members = self.ensemble.members if self._exports else []
        artifacts, alphas = [m.artifact for m in members], [m.alpha for m in members]
        return [model_step(self.prepared, artifacts, alphas)] if members else []


def found(step: Step) -> tuple[Artifact, Logits] | Miss:
    """What a step has made, if it has."""
    known = step.find()
    if isinstance(known, Miss):
        return known
    return known, {} if step.member is None else load_logits(known.path)


def make_plan(prepared: Prepared) -> dict[str, str]:
    """What will happen to each step, by name; changes nothing.

    Returns:
        "done", "run" (and why or from where, if something is there), or "not needed".
    """
    stages = [stage.name for stage in kind_of(prepared.config).stages]
    last = [] if prepared.config.export.remainder == "none" else [MODEL]
    plan = dict.fromkeys([DATA, *stages, *member_steps(prepared.config), *last], "run")
    if prepared.config.fresh:
        return plan
    data = prepared.find_data()
    plan[DATA] = _state(data)
    looked_at = {DATA}
    if isinstance(data, Miss):
        return plan
    run = Run(prepared, load_splits(prepared))
    steps = run.start()
    while steps:
        step = steps.pop(0)
        known = found(step)
        looked_at.add(step.name)
        plan[step.name] = _state(known)
        if not isinstance(known, Miss):
            steps += run.advance(step, *known)
        elif known.reason == "absent" and names(step.checkpoints):
            plan[step.name] = "run (from its checkpoint)"
    if run.trained:  # boosting has ended before the steps not looked at
        plan |= dict.fromkeys(plan.keys() - looked_at, "not needed")
    return plan


def results(run: Run) -> Results:
    """Evaluate the ensemble of a run that is finished."""
    prepared, ensemble = run.prepared, run.ensemble
    members, config = ensemble.members, prepared.config
    scores = _staged_scores(ensemble)
    return Results(
        run=str(prepared.directory),
        task=prepared.task.name,
        metrics=prepared.task.metrics,
        classes=prepared.task.labels,
        dev=tuple(prepared.corpus.dev),
        selection=config.selection,
        seed=config.seed,
        stages={
            stage.name: _model(stage.name, run.parents[stage.name])
            for stage in run.kind.stages
            if stage.section is not None  # what has not been trained has its parent's scores
        },
        members=[
            replace(_model(member.name, member.artifact), alpha=member.alpha, error=member.error)
            for member in members
        ],
        staged=[{split: scores[split][m] for split in run.splits} for m in range(len(members))],
        predictions=_predictions(ensemble),
        note="; ".join(filter(None, [ensemble.note, *_weak(run)])),
        packed=_packed(run.model),
        config=to_dict(config),
        versions=versions() | {"ray": version("ray")},
    )


def _weak(run: Run) -> Iterator[str]:
    """Who has learnt nothing, by the selection split: members, and what they started from."""
    start = run.kind.start
    logits = {start: load_logits(fetch(run.parents[start].location).path)}
    logits |= {member.name: member.logits for member in run.ensemble.members}
    for name, predictions in logits.items():
        columns, task = run.splits["selection"], run.prepared.task
        if is_no_better_than_chance(task, predictions["selection"], columns.labels):
            yield f"{name} is no better than chance on the selection split"


def _staged_scores(ensemble: Ensemble) -> dict[str, list[dict[str, float]]]:
    """Metrics of the ensemble of the first 1, 2, ... members, by split."""
    alphas = [member.alpha for member in ensemble.members]
    logits = [member.logits for member in ensemble.members]
    return {
        split: [
            evaluate(ensemble.prepared.task, scores, columns.labels)
            for scores in staged(np.stack([member[split] for member in logits]), alphas)
        ]
        for split, columns in ensemble.splits.items()
    }


def _predictions(ensemble: Ensemble) -> list[tuple[float, float]]:
    """Label and prediction for every example of the main reported split."""
    task, split = ensemble.prepared.task, next(iter(ensemble.prepared.corpus.dev))
    logits = np.stack([member.logits[split] for member in ensemble.members])
    scores = combine(logits, [member.alpha for member in ensemble.members])
    predictions = scores[:, 0] if task.is_regression else scores.argmax(axis=1)
    labels = ensemble.splits[split].labels
    return list(zip(labels.tolist(), predictions.tolist(), strict=True))


def _model(name: str, artifact: Artifact) -> Model:
    facts = artifact.facts
    return Model(name, facts["scores"], facts["bits"], facts["seconds"])


def _packed(artifact: Artifact | None) -> Packed | None:
    if artifact is None:
        return None
    facts, remainder = artifact.facts, artifact.inputs["remainder"]
    return Packed(remainder, facts["bytes"], facts["scores"], facts["logit_difference"])


def _state(known: object) -> str:
    if not isinstance(known, Miss):
        return "done"
    return "run" if known.reason == "absent" else f"run ({known.reason})"
