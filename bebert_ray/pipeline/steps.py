"""The steps of a run: what each makes, where it leaves it, and all that it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bebert_ray.config import Config, to_dict
from bebert_ray.config.recipes import NO_FIGURE, RIVAL_NAMES, Stage, kind_of, member_settings
from bebert_ray.packed.manifest import VERSION
from bebert_ray.packed.quantizer import Remainder
from bebert_ray.pipeline.layout import MEMBERS, MODEL, member_directory, member_name
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.storage import Artifact, Location, Miss, find, fingerprint, hash_arrays

# Later keys of `training`: what was made without them was made as with these values.
_LATER = {"accumulate": 1, "max_steps": None, "eval_every": None, "patience": None}

Kind = Literal["stage", "round", "member", "fold", "model"]
"""What a step makes: a shared stage; a round of a member or fold before the last; a member; a fold
of one; the packed model."""


@dataclass(frozen=True, eq=False)
class Step:
    """A unit of work for one worker, which makes one artifact.

    Attributes:
        name: for people, such as `teacher`, `member 000 round 0` or `member 000`.
        job: what is trained, whatever the round; events have it as their `stage`.
        kind: what the step makes. A round leaves logits, all others leave a model.
        path: directory of the artifact.
        checkpoints: directory of the checkpoints, which the rounds of a member share.
        inputs: all that the artifact depends on, as JSON.
        earlier: the inputs of the earlier rounds.
        member: number of the member; None for a shared stage and the packed model.
        fold: number of the fold; None for all but folds.
        sample_weight: of each round so far, float64 [rounds, n], each row summing to 1; None for
            a shared stage and the packed model.
    """

    name: str
    job: str
    kind: Kind
    path: Location
    checkpoints: Location
    inputs: dict[str, Any]
    earlier: tuple[dict[str, Any], ...] = ()
    member: int | None = None
    fold: int | None = None
    sample_weight: NDArray[np.float64] | None = None

    @property
    def stage(self) -> str:
        """What the record of the artifact says that it is.

        The name of a shared stage, `round`, `member` (of a fold, too) or `model`.
        """
        if self.kind == "stage":
            return self.name
        return "member" if self.kind == "fold" else self.kind

    @property
    def round(self) -> int:
        """Number of the round, from 0."""
        return 0 if self.sample_weight is None else len(self.sample_weight) - 1

    @property
    def round_shown(self) -> int | None:
        """The round, for events; None unless the member trains in several."""
        return self.round if self.kind == "round" or self.earlier else None

    def find(self) -> Artifact | Miss:
        """The artifact, if it was made from the same inputs and is whole."""
        return find(self.path, self.inputs)


def stage_step(prepared: Prepared, stage: Stage, parents: Mapping[str, Artifact]) -> Step:
    """The step of a shared stage, or of a baseline.

    Args:
        prepared: the run.
        stage: the stage.
        parents: the artifacts of the stages before it, by name.
    """
    inputs = _inputs(prepared, stage.parents, parents) | stage.inputs
    if not stage.parents:
        inputs["model"] = prepared.checkpoint.digest
    distilled = stage.recipe in ("half", "ternary", "binary")
    if distilled or (stage.recipe == "single" and prepared.config.ensemble.strategy != "A"):
        inputs |= _copies(prepared, member=not distilled)
    if stage.name in RIVAL_NAMES:
        inputs["precision"] = shipped_precision(prepared.config)
    return _step(prepared, stage.name, "stage", inputs)


def member_step(
    prepared: Prepared,
    member: int,
    sample_weight: NDArray[np.float64],
    parents: Mapping[str, Artifact],
    fold: int | None = None,
) -> Step:
    """The step of a round of a member, or of a fold of it; the last round makes the model.

    Args:
        prepared: the run.
        member: number of the member.
        sample_weight: of each round so far, float64 [rounds, n], each row summing to 1.
        parents: the artifacts of the shared stages, by name.
        fold: number of the fold; None for the member itself.
    """
    config = prepared.config
    trunk = kind_of(config).trunk_of(member)
    common = _inputs(prepared, (trunk.teacher, trunk.start), parents) | {
        "member": member,
        "settings": member_settings(config),
        "strategy": config.ensemble.strategy,
        "use_of_weight": config.ensemble.sample_weight,
        "rounds": config.rounds,
        "precision": shipped_precision(config),
    }
    if config.ensemble.strategy != "A":
        common |= _copies(prepared, member=True)
    rounds = len(sample_weight)
    *earlier, inputs = (
        common | {"sample_weight": hash_arrays({"sample_weight": sample_weight[:count]})}
        for count in range(1, rounds + 1)
    )
    last: Kind = "member" if fold is None else "fold"
    round = None if rounds == config.rounds else rounds - 1
    return Step(
        name=member_name(member, fold, round),
        job=member_name(member, fold),
        kind=last if round is None else "round",
        path=prepared.layout.member(member, fold, round),
        checkpoints=prepared.layout.checkpoints / member_directory(member, fold),
        inputs=inputs,
        earlier=tuple(earlier),
        member=member,
        fold=fold,
        sample_weight=sample_weight,
    )


def student_step(
    prepared: Prepared,
    stage: Stage,
    members: Sequence[Artifact],
    alphas: Sequence[float],
    parents: Mapping[str, Artifact],
) -> Step:
    """The step that distils an ensemble back into one member; arguments as for `model_step`.

    Args:
        prepared: the run.
        stage: of `Kind.rivals`.
        members: artifacts of the ensemble's members, in order.
        alphas: weights of the members in the vote, [M].
        parents: the artifacts of the shared stages, by name.
    """
    inputs = _inputs(prepared, stage.parents, parents) | stage.inputs
    inputs["members"] = {f"{MEMBERS}/{each.location.name}": each.digest for each in members}
    inputs["alphas"] = list(alphas)
    inputs["precision"] = shipped_precision(prepared.config)
    return _step(prepared, stage.name, "stage", inputs)


def model_step(
    prepared: Prepared,
    members: Sequence[Artifact],
    alphas: Sequence[float],
    origin: Mapping[str, Any] | None = None,
) -> Step:
    """The last step: the members are packed into one model, with its model card.

    Args:
        prepared: the run.
        members: artifacts of the ensemble's members, in order.
        alphas: weights of the members in the vote, [M]. If all are 0, each member counts the same.
        origin: for the card of an ensemble from several runs: of each member, the run that it comes
            from, and its settings.
    """
    config, task = prepared.config, prepared.task
    shown = to_dict(config) | ({"members": origin} if origin else {})
    for key in ("output", "fresh", "export", "resources"):
        del shown[key]
    for key in NO_FIGURE:
        del shown["training"][key]
    inputs = {
        "format": VERSION,
        "data": fingerprint(prepared.data),
        "model": prepared.checkpoint.digest,
        "members": {member.location.name: member.digest for member in members},
        "alphas": list(alphas) if any(alphas) else [1.0] * len(alphas),
        "remainder": config.export.remainder,
        "cascade_loss": config.export.cascade_loss,
        "labels": task.labels,
        "text_columns": task.text_columns,
        "max_length": config.data.max_length,
        "config": shown,
    }
    return _step(prepared, MODEL, "model", inputs)


def shipped_precision(config: Config) -> Remainder:
    """The precision that members are scored in: of the file that they ship in.

    Without a packed model (`export.remainder=none`) that of the default, so that one can be made
    later.
    """
    return "fp32" if config.export.remainder == "fp32" else "fp16"


def _step(prepared: Prepared, name: str, kind: Kind, inputs: dict[str, Any]) -> Step:
    layout = prepared.layout
    return Step(name, name, kind, layout.artifact(name), layout.checkpoints / name, inputs)


def _copies(prepared: Prepared, member: bool) -> dict[str, Any]:
    """What a training that takes augmented copies depends on besides; nothing without copies."""
    if prepared.augmentation is None:
        return {}
    augment, ensemble = prepared.config.data.augment, prepared.config.ensemble
    own = member and augment.per_member
    return {
        "augmented": fingerprint(prepared.augmentation),
        "copy_share": augment.share,
        "copy_parts": ensemble.members if own else ensemble.trunks,
    }


def _inputs(
    prepared: Prepared, names: Iterable[str], parents: Mapping[str, Artifact]
) -> dict[str, Any]:
    training = asdict(prepared.config.training)
    for key in NO_FIGURE:
        del training[key]
    training = {k: value for k, value in training.items() if _LATER.get(k, ...) != value}
    return {
        "data": fingerprint(prepared.data),
        "seed": prepared.config.seed,
        "training": training,
        "parents": {name: parents[name].digest for name in names},
    }
