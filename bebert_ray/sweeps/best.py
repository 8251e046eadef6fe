"""The best of a sweep: alphas searched for each trial, an ensemble selected from all, the winner.

Nothing is trained here, and everything is chosen on the selection split. Dev is looked at when all
choices are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bebert_ray.boosting.alphas import Weighting, search_alphas
from bebert_ray.boosting.selection import select
from bebert_ray.config import to_yaml
from bebert_ray.config.recipes import kind_of
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import primary
from bebert_ray.errors import RunError
from bebert_ray.pipeline.driver import found
from bebert_ray.pipeline.evaluate import ensemble_scores
from bebert_ray.pipeline.layout import Layout
from bebert_ray.pipeline.members import Ensemble, Member, vote_alphas
from bebert_ray.pipeline.ownership import clear_run
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.results import to_json
from bebert_ray.pipeline.steps import Step, model_step
from bebert_ray.storage import (
    Artifact,
    Miss,
    exists,
    fetch,
    find,
    keep,
    link,
    read,
    write_atomic,
)
from bebert_ray.storage.records import sealed
from bebert_ray.sweeps.directory import ENSEMBLE
from bebert_ray.sweeps.records import Record, best_of, pareto_front, write_record
from bebert_ray.sweeps.settings import Sweep
from bebert_ray.training.encoder import leave_encoder

AS_TRAINED, UNIFORM, SWEPT = "its own alphas", "uniform alphas", "swept alphas"
SELECTED = "selected"
BEST = "best"


@dataclass(frozen=True, eq=False)
class Candidate:
    """An ensemble that could be the best.

    Attributes:
        name: how it came about: `its own alphas`, `uniform alphas` and `swept alphas` of the best
            trial's members, the last of another trial's if they are better, or `selected` from the
            members of all trials.
        members: pairs of trial and member.
        alphas: [M], summing to 1.
        held_out: its primary metric on the selection split.
        bits: its size.
    """

    name: str
    members: list[tuple[Record, Member]]
    alphas: list[float]
    held_out: float
    bits: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sweep has come to.

    Attributes:
        sweep: what was swept.
        records: of all trials.
        best: the trial whose own ensemble scores highest.
        front: the trials that none beats in both score and size.
        swept: the result of the search for alphas, by trial.
        candidates: the ensembles that were compared.
        winner: the one of them that scores highest.
        dev: all metrics of each candidate, by name and reported split; no choice was made on them.
        metric: the primary one.
    """

    sweep: Sweep
    records: list[Record]
    best: Record
    front: list[Record]
    swept: dict[int, Weighting]
    candidates: list[Candidate]
    winner: Candidate
    dev: dict[str, dict[str, dict[str, float]]]
    metric: str


def conclude(
    sweep: Sweep, shared: Prepared, splits: dict[str, Columns], records: list[Record]
) -> Outcome:
    """Find the best that the trials of a sweep have to offer.

    Args:
        sweep: what was swept.
        shared: the run whose stages the trials started from.
        splits: its examples.
        records: of the trials, all of which have ended.

    Raises:
        RunError: no trial was done.
    """
    best = best_of(records)
    if best is None:
        reasons = "\n".join(f"  {each.name} {each.state}: {each.reason}" for each in records)
        raise RunError(f"no trial has made an ensemble:\n{reasons}")
    task, labels, seed = shared.task, splits["selection"].labels, sweep.config.seed
    parents = {
        stage.name: fetch(shared.directory / stage.name) for stage in kind_of(sweep.config).stages
    }
    members: dict[int, list[Member]] = {}  # of the ensembles, by trial
    library: list[tuple[Record, Member]] = []
    for record in records:
        if record.repeats is None:
            ensemble, trained = _members(sweep, shared, splits, parents, record)
            library += [(record, member) for member in trained]
            if record.state == "done":
                members[record.number] = ensemble
    swept = {
        number: search_alphas(task, _held_out(ensemble), labels, [vote_alphas(ensemble)], seed)
        for number, ensemble in members.items()
    }

    def candidate(name: str, parts: list[tuple[Record, Member]], alphas: Any) -> Candidate:
        weights = np.asarray(alphas, np.float64)
        parts, weights = [parts[m] for m in np.flatnonzero(weights)], weights[weights > 0]
        logits = _held_out([member for _, member in parts])
        score = ensemble_scores(task, logits, weights, labels)[primary(task)]
        bits = sum(member.artifact.facts["bits"] for _, member in parts)
        return Candidate(name, parts, (weights / weights.sum()).tolist(), score, bits)

    own = [(best, member) for member in members[best.number]]
    counts = select(task, _held_out([member for _, member in library]), labels, sweep.size)
    taken = np.flatnonzero(counts)
    candidates = [
        candidate(AS_TRAINED, own, vote_alphas(members[best.number])),
        candidate(UNIFORM, own, np.ones(len(own))),
        candidate(SWEPT, own, swept[best.number].alphas),
        candidate(SELECTED, [library[index] for index in taken], counts[taken]),
    ]
    top = max(swept, key=lambda number: swept[number].score)
    if swept[top].score > swept[best.number].score:
        [record] = (each for each in records if each.number == top)
        parts = [(record, member) for member in members[top]]
        candidates.insert(3, candidate(f"{SWEPT} of {record.name}", parts, swept[top].alphas))
    winner = max(candidates, key=lambda each: (each.held_out, -each.bits))
    dev = {
        each.name: {
            split: ensemble_scores(
                task,
                [member.logits[split] for _, member in each.members],
                each.alphas,
                splits[split].labels,
            )
            for split in shared.corpus.dev
        }
        for each in candidates
    }
    return Outcome(
        sweep=sweep,
        records=records,
        best=best,
        front=pareto_front(records),
        swept=swept,
        candidates=candidates,
        winner=winner,
        dev=dev,
        metric=primary(task),
    )


def _members(
    sweep: Sweep,
    shared: Prepared,
    splits: dict[str, Columns],
    parents: dict[str, Artifact],
    record: Record,
) -> tuple[list[Member], list[Member]]:
    """The members of a trial's ensemble, with their alphas; and all that were trained for it."""
    prepared = sweep.prepared(shared, record.number, record.point)
    ensemble = Ensemble(prepared, splits, parents)
    steps = ensemble.start()
    trained = []
    while steps:
        step = steps.pop(0)
        known = found(step)
        if not isinstance(known, Miss):
            if step.kind == "member":
                trained.append(Member(step.name, *known, alpha=1.0))
            steps += ensemble.advance(step, *known, new=False)
    if record.state == "done" and not ensemble.finished:
        write_record(sweep.directory, Record(record.number, record.point))
        raise RunError(
            f"{record.name} was done, and now members are missing or damaged in "
            f"{prepared.directory}; give the same command again: they are made anew"
        )
    return ensemble.members, trained


def keep_best(outcome: Outcome, shared: Prepared) -> tuple[Prepared, Step] | None:
    """Leave the best configuration and the best ensemble in the directory of the sweep.

    `best.yaml` is the best trial's configuration; `jobs/ensemble.py` takes it, and finds the
    members trained. `best/` holds the winner: its models in `members/000`, …, and in
    `ensemble.json` where each is from, and its alpha.

    Returns:
        The step that packs the winner into `best/model`, and the run that it belongs to; None if
        `export.remainder` is none.
    """
    sweep, winner = outcome.sweep, outcome.winner
    config = sweep.trial(outcome.best.number, outcome.best.point)
    head = f"# The best of {len(outcome.records)} trials: held-out {outcome.best.score:.4f}.\n"
    keep(sweep.directory / "best.yaml", (head + to_yaml(config)).encode())

    directory = sweep.directory / BEST
    facts = {
        "name": winner.name,
        "held_out": winner.held_out,
        "members": [
            {
                "alpha": alpha,
                "from": f"{record.name}, {member.name}",
                "digest": member.artifact.digest,
            }
            for (record, member), alpha in zip(winner.members, winner.alphas, strict=True)
        ],
    }
    text = to_json(sealed(facts, "bebert-ensemble", 1), indent=2).encode()
    positions = range(len(winner.members))
    places = [Layout(directory).member(position) for position in positions]
    whole = all(
        isinstance(find(place, member.artifact.inputs), Artifact)
        for place, (_, member) in zip(places, winner.members, strict=True)
    )
    if not (whole and exists(directory / ENSEMBLE) and read(directory / ENSEMBLE) == text):
        clear_run(directory)
        for place, (_, member) in zip(places, winner.members, strict=True):
            link(member.artifact.path, place)
        write_atomic(directory / ENSEMBLE, text)
    if config.export.remainder == "none":
        return None
    leave_encoder(shared.checkpoint, directory)
    if winner.name != SELECTED:
        maker, _ = winner.members[0]  # not the best trial if another one is better with new alphas
        config, origin = sweep.trial(maker.number, maker.point), None
    else:  # no one configuration has made them
        config = sweep.config
        origin = {
            place.name: {"from": f"{record.name}, {member.name}"} | record.point
            for place, (record, member) in zip(places, winner.members, strict=True)
        }
    prepared = replace(shared, config=config, directory=directory)
    artifacts = [fetch(place) for place in places]
    return prepared, model_step(prepared, artifacts, winner.alphas, origin)


def _held_out(members: list[Member]) -> np.ndarray:
    return np.stack([member.logits["selection"] for member in members])
