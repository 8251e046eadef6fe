"""The steps of a run: what each makes, where it lies, and all that it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.config import to_dict
from bebert_ray.config.recipes import MODEL, Stage, kind_of
from bebert_ray.packed.manifest import VERSION
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.storage import Artifact, Location, Miss, find, fingerprint, hash_arrays

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, eq=False)
class Step:
    """What a worker does in one go, and leaves behind as an artifact.

    One of the shared stages; a round of a member that trains in rounds, which leaves its logits; a
    member, that is its last round; a fold that judges a member; or the packed model of them all.

    Attributes:
        name: for people, such as `teacher`, `member 000 round 0` or `member 000`.
        trainee: what is in training: the stage or the member, whatever the round.
        stage: name of the stage: `member` for members and folds, `round` for their earlier rounds.
        path: directory of the artifact.
        checkpoints: directory of the trainee's checkpoints.
        inputs: all that the outcome depends on, as JSON.
        earlier: the inputs of the trainee's earlier rounds.
        member: number of the member; None for a shared stage, and for the packed model.
        fold: number of the fold, if it is one.
        sample_weight: what a member trains with in each round so far, [rounds, n], each summing
            to 1; None for a shared stage.
    """

    name: str
    trainee: str
    stage: str
    path: Location
    checkpoints: Location
    inputs: dict[str, Any]
    earlier: tuple[dict[str, Any], ...] = ()
    member: int | None = None
    fold: int | None = None
    sample_weight: NDArray[np.float64] | None = None

    @property
    def round(self) -> int:
        """Number of the round, from 0."""
        return 0 if self.sample_weight is None else len(self.sample_weight) - 1

    @property
    def round_shown(self) -> int | None:
        """The round, for events: None unless the member trains in several."""
        return self.round if self.stage == "round" or self.earlier else None

    def find(self) -> Artifact | Miss:
        """What the step makes, if it has been made."""
        return find(self.path, self.inputs)


def stage_step(prepared: Prepared, stage: Stage, parents: Mapping[str, Artifact]) -> Step:
    """One of the stages that all members share.

    Args:
        prepared: the run.
        stage: which one.
        parents: the finished stages before it, by name.
    """
    inputs = _inputs(prepared, stage.parents, parents) | stage.inputs
    if not stage.parents:
        inputs["model"] = prepared.checkpoint.digest
    name, directory = stage.name, prepared.directory
    return Step(name, name, name, directory / name, directory / CHECKPOINTS / name, inputs)


def member_step(
    prepared: Prepared,
    member: int,
    sample_weight: NDArray[np.float64],
    parents: Mapping[str, Artifact],
    fold: int | None = None,
) -> Step:
    """A round of a member, the last of which makes it, or one of the folds that judge it.

    Args:
        prepared: the run.
        member: its number.
        sample_weight: what it trains with in each round so far, [rounds, n], each summing to 1.
        parents: the finished stages, by name.
        fold: the number of the fold; None for the member itself.
    """
    config = prepared.config
    settings = {name: value for name, value in asdict(config.member).items() if value is not None}
    if config.ensemble.strategy != "C":
        del settings["hidden_epochs"], settings["hidden_learning_rate"]
    kind = kind_of(config)
    common = _inputs(prepared, (kind.teacher, kind.start), parents) | {
        "member": member,
        "settings": settings,
        "strategy": config.ensemble.strategy,
        "use_of_weight": config.ensemble.sample_weight,
        "bootstrap": config.ensemble.method == "bagging",
        "rounds": config.rounds,
    }
    rounds = len(sample_weight)
    *earlier, inputs = (
        common | {"sample_weight": hash_arrays({"sample_weight": sample_weight[:count]})}
        for count in range(1, rounds + 1)
    )
    trainee, directory = member_name(member, fold), f"{member:03d}"
    if fold is not None:
        directory += f"-fold-{fold}"
    last = rounds == config.rounds
    return Step(
        name=trainee if last else f"{trainee} round {rounds - 1}",
        trainee=trainee,
        stage="member" if last else "round",
        path=prepared.directory
        / "members"
        / (directory if last else f"{directory}-round-{rounds - 1}"),
        checkpoints=prepared.directory / CHECKPOINTS / directory,
        inputs=inputs,
        earlier=tuple(earlier),
        member=member,
        fold=fold,
        sample_weight=sample_weight,
    )


def model_step(
    prepared: Prepared,
    members: Sequence[Artifact],
    alphas: Sequence[float],
    origin: Mapping[str, Any] | None = None,
) -> Step:
    """The last step: the members packed into one model, with all that its card tells.

    Args:
        prepared: the run.
        members: of the ensemble, in order.
        alphas: their say.
        origin: of members of several runs, for the card: where each is from, and its settings.
    """
    config, task = prepared.config, prepared.task
    shown = to_dict(config) | ({"members": origin} if origin else {})
    for key in ("output", "fresh", "export", "resources"):
        del shown[key]
    del shown["training"]["eval_batch_size"], shown["training"]["checkpoint_every"]
    inputs = {
        "format": VERSION,
        "data": fingerprint(prepared.data),
        "model": prepared.checkpoint.digest,
        "members": {member.location.name: member.digest for member in members},
        "alphas": list(alphas),
        "remainder": config.export.remainder,
        "labels": task.labels,
        "text_columns": task.text_columns,
        "max_length": config.data.max_length,
        "config": shown,
    }
    directory = prepared.directory
    return Step(MODEL, MODEL, MODEL, directory / MODEL, directory / CHECKPOINTS / MODEL, inputs)


def member_name(member: int, fold: int | None = None) -> str:
    """What people read: `member 000`, `member 000 fold 1`."""
    return f"member {member:03d}" + ("" if fold is None else f" fold {fold}")


def _inputs(
    prepared: Prepared, names: Iterable[str], parents: Mapping[str, Artifact]
) -> dict[str, Any]:
    training = asdict(prepared.config.training)
    del training["eval_batch_size"], training["checkpoint_every"]
    return {
        "data": fingerprint(prepared.data),
        "seed": prepared.config.seed,
        "training": training,
        "parents": {name: parents[name].digest for name in names},
    }
