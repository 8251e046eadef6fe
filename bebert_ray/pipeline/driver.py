"""A run as a sequence of steps: which are done, which are due, and the results of all of them.

No Ray here: the caller runs the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from bebert_ray.config import to_dict
from bebert_ray.config.recipes import DISTILLED, RIVAL_NAMES, Stage, kind_of
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import is_no_better_than_chance, primary
from bebert_ray.nn.bert import load_model
from bebert_ray.nn.margins import encoder_bits, share_differing
from bebert_ray.pipeline.augmentation import find_augmented
from bebert_ray.pipeline.diagnostics import (
    baselines,
    correlation_test,
    diversity,
    diversity_of_scores,
    paired_test,
)
from bebert_ray.pipeline.evaluate import ensemble_predictions, predictions, staged_scores
from bebert_ray.pipeline.layout import AUGMENTED, DATA, MODEL
from bebert_ray.pipeline.members import Ensemble, Member, member_steps, vote_alphas
from bebert_ray.pipeline.prepare import Prepared, load_splits
from bebert_ray.pipeline.results import MEAN_MEMBER, Model, Packed, Results
from bebert_ray.pipeline.steps import Step, model_step, stage_step, student_step
from bebert_ray.storage import Artifact, Miss, fetch, names
from bebert_ray.training.work import Logits, load_logits, versions


class Run:
    """The steps of a run in their order: begin with `start`, `advance` with each step's artifact.

    Args:
        prepared: the run.
        splits: its examples by split.
        report: receives the events that tell errors and alphas.
        stages_only: whether the run ends where the members begin.

    Attributes:
        parents: the finished stages by name, and those of a baseline.
        rivals: the baselines of equal cost by name, and the ensemble distilled back.
        model: the packed model, once it is there.
        started: how many steps workers have begun, as `bebert_ray.run.execute` sets it.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: dict[str, Columns],
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        stages_only: bool = False,
    ):
        self.prepared, self.splits = prepared, splits
        self.kind = kind_of(prepared.config)
        self.parents: dict[str, Artifact] = {}
        self.rivals: dict[str, Artifact] = {}
        self.model: Artifact | None = None
        self.started = 0
        self._issued: set[str] = set()  # names of the stages whose steps are due, or done
        self._report, self._stages_only = report, stages_only
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
        rivals = {stage.name for stage in self._rivals if stage.name in RIVAL_NAMES}
        packed = self.model is not None or not self._exports
        return self.trained and packed and rivals <= self.rivals.keys()

    @property
    def _exports(self) -> bool:
        return not self.prepared.is_trial and self.prepared.config.export.remainder != "none"

    @property
    def _rivals(self) -> tuple[Stage, ...]:
        return () if self.prepared.is_trial else self.kind.rivals

    def start(self) -> list[Step]:
        """The steps to begin with."""
        return self._due(self.kind.stages)

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
        if step.name in RIVAL_NAMES:
            self.rivals[step.name] = artifact
            return []
        self.parents[step.name] = artifact
        due = self._due(self.kind.stages)
        if self._stages_only or any(s.name not in self.parents for s in self.kind.stages):
            return due
        due += self._due(self._rivals)
        if self._ensemble is None:
            self._ensemble = Ensemble(self.prepared, self.splits, self.parents, self._report)
            due += self._ensemble.start()
        return due

    def _due(self, stages: tuple[Stage, ...]) -> list[Step]:
        """The steps of stages that can begin now, and have not been due before."""
        due = [
            stage
            for stage in stages
            if stage.name not in self._issued
            and stage.name != DISTILLED
            and all(parent in self.parents for parent in stage.parents)
        ]
        self._issued |= {stage.name for stage in due}
        return [stage_step(self.prepared, stage, self.parents) for stage in due]

    def _last(self) -> list[Step]:
        """The steps that are due once all members are there."""
        members = self.ensemble.members
        artifacts, alphas = [m.artifact for m in members], vote_alphas(members)
        due = [
            student_step(self.prepared, stage, artifacts, alphas, self.parents)
            for stage in self._rivals
            if stage.name == DISTILLED
        ]
        if self._exports:
            due.append(model_step(self.prepared, artifacts, alphas))
        return due


def found(step: Step) -> tuple[Artifact, Logits] | Miss:
    """What a step has made, if it has."""
    known = step.find()
    if isinstance(known, Miss):
        return known
    return known, {} if step.member is None else load_logits(known.path)


def make_plan(prepared: Prepared) -> dict[str, str]:
    """The state of each step before a run, by name; changes nothing.

    Returns:
        "done", "run" (and why or from where, if something is there), or "not needed".
    """
    kind = kind_of(prepared.config)
    stages, rivals = ([stage.name for stage in each] for each in (kind.stages, kind.rivals))
    last = [] if prepared.config.export.remainder == "none" else [MODEL]
    augmented = [] if prepared.augmentation is None else [AUGMENTED]
    first = [DATA, *augmented, *stages]
    plan = dict.fromkeys([*first, *member_steps(prepared.config), *rivals, *last], "run")
    if prepared.config.fresh:
        return plan
    data = prepared.find_data()
    plan[DATA] = _state(data)
    looked_at = {DATA, *augmented}
    if augmented:
        plan[AUGMENTED] = _state(find_augmented(prepared))
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
    """The figures of a run that is finished."""
    prepared, ensemble = run.prepared, run.ensemble
    members, config = ensemble.members, prepared.config
    task, dev = prepared.task, next(iter(prepared.corpus.dev))
    logits = {split: [member.logits[split] for member in members] for split in run.splits}
    alphas = [member.alpha for member in members]
    scores = {
        split: staged_scores(task, logits[split], alphas, columns.labels)
        for split, columns in run.splits.items()
    }
    predicted = ensemble_predictions(task, logits[dev], alphas)
    of_members = [predictions(task, each) for each in logits[dev]]
    models = _model_logits(run)
    of_models = {name: predictions(task, each[dev]) for name, each in models.items()}
    common = _bits_in_common(members)
    notes = [ensemble.note, *_weak(run, models), *_alike(members, common)]
    return Results(
        run=str(prepared.directory),
        task=task.name,
        metrics=task.metrics,
        classes=task.labels,
        dev=tuple(prepared.corpus.dev),
        selection=config.selection,
        seed=config.seed,
        stages={
            stage.name: _model(stage.name, run.parents[stage.name])
            for stage in run.kind.stages
            if stage.section is not None  # what has not been trained has its parent's scores
        },
        members=[
            replace(
                _model(member.name, member.artifact),
                alpha=member.alpha,
                error=member.error,
                flipped=member.artifact.facts.get("flipped"),
            )
            for member in members
        ],
        staged=[{split: scores[split][m] for split in run.splits} for m in range(len(members))],
        predictions=list(zip(run.splits[dev].labels.tolist(), predicted, strict=True)),
        note="; ".join(filter(None, notes)),
        packed=_packed(run.model),
        config=to_dict(config),
        versions=versions() | {"ray": version("ray")},
        member_predictions=of_members,
        model_predictions=of_models,
        bits_in_common=common,
        diagnostics=(diversity_of_scores if task.is_regression else diversity)(
            run.splits[dev].labels, of_members
        ),
        baselines=_baselines(run, of_models, of_members, predicted),
        rivals={name: _model(name, artifact) for name, artifact in sorted(run.rivals.items())},
    )


def _model_logits(run: Run) -> dict[str, Logits]:
    """The logits of stages, of the checkpoints that members start from, and of rivals, by name."""
    models = {stage.name: run.parents[stage.name] for stage in run.kind.stages} | run.rivals
    return {name: load_logits(fetch(artifact.location).path) for name, artifact in models.items()}


def _baselines(
    run: Run,
    of_models: dict[str, list[float]],
    of_members: list[list[float]],
    predicted: list[float],
) -> dict[str, dict[str, float | None]]:
    """The mean member, the best one by held-out score, what members start from, and the rivals."""
    task, metric = run.prepared.task, primary(run.prepared.task)
    dev = next(iter(run.prepared.corpus.dev))
    members = run.ensemble.members

    def score(artifact: Artifact, split: str = dev) -> float:
        return artifact.facts["scores"][split][metric]

    artifacts = [member.artifact for member in members]
    best = int(np.argmax([score(artifact, "selection") for artifact in artifacts]))
    best_member = f"best member ({members[best].name})"
    models = {
        best_member: artifacts[best],
        **{trunk.start: run.parents[trunk.start] for trunk in run.kind.trunks},
        **run.rivals,
    }
    mean = float(np.mean([score(artifact) for artifact in artifacts]))
    return baselines(
        {MEAN_MEMBER: mean, **{name: score(artifact) for name, artifact in models.items()}},
        {MEAN_MEMBER: of_members, best_member: of_members[best], **of_models},
        run.splits[dev].labels,
        predicted,
        correlation_test if task.is_regression else paired_test,
    )


def _bits_in_common(members: list[Member]) -> list[list[float]]:
    """Of each pair, the share of the encoder's binary weights with the same sign."""
    if any("flipped" not in member.artifact.facts for member in members):
        return []  # made by an earlier version, or no model at all
    bits = [encoder_bits(load_model(fetch(member.artifact.location).path)) for member in members]
    return [[1 - share_differing(one, other) for other in bits] for one in bits]


def _alike(members: list[Member], common: list[list[float]]) -> Iterator[str]:
    """A note on each member that has the bits of its start, or of a member before it."""
    for number, member in enumerate(members):
        if member.artifact.facts.get("flipped") == 0:
            yield f"{member.name} has the bits of the checkpoint it started from: none flipped"
        for earlier in range(number if common else 0):
            if common[number][earlier] == 1:
                yield f"{member.name} and {members[earlier].name} have the same bits"
                break


def _weak(run: Run, models: dict[str, Logits]) -> Iterator[str]:
    """A note on each member, and on the models they start from, that is no better than chance."""
    logits = {trunk.start: models[trunk.start] for trunk in run.kind.trunks}
    logits |= {member.name: member.logits for member in run.ensemble.members}
    for name, by_split in logits.items():
        columns, task = run.splits["selection"], run.prepared.task
        if is_no_better_than_chance(task, by_split["selection"], columns.labels):
            yield f"{name} is no better than chance on the selection split"


def _model(name: str, artifact: Artifact) -> Model:
    facts = artifact.facts
    return Model(name, facts["scores"], facts["bits"], facts["seconds"])


def _packed(artifact: Artifact | None) -> Packed | None:
    if artifact is None:
        return None
    facts, remainder = artifact.facts, artifact.inputs["remainder"]
    return Packed(
        remainder, facts["bytes"], facts["scores"], facts["logit_difference"], facts["cascade"]
    )


def _state(known: object) -> str:
    if not isinstance(known, Miss):
        return "done"
    return "run" if known.reason == "absent" else f"run ({known.reason})"
