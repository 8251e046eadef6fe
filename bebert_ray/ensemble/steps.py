"""The steps of a run: what each makes, where it lies, and all that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.ensemble.prepare import Prepared
from bebert_ray.storage import Artifact, Miss, find, fingerprint, hash_arrays

_PARENTS: dict[str, tuple[str, ...]] = {
    "teacher": (),
    "half": ("teacher",),
    "ternary": ("half",),
    "split": ("ternary",),
    "member": ("half", "split"),  # the half model teaches in strategies B and C
}


@dataclass(frozen=True, eq=False)
class Step:
    """What a worker does in one go: one of the shared stages, a member, or a fold that judges one.

    Attributes:
        name: for people, such as `teacher` or `member 000`.
        stage: name of the stage, which is `member` for members and their folds.
        path: directory of the artifact.
        inputs: all that the outcome depends on, as JSON.
        member: number of the member; None for a shared stage.
        sample_weight: what a member trains with, [n], sums to 1; None for a shared stage.
    """

    name: str
    stage: str
    path: Path
    inputs: dict[str, Any]
    member: int | None = None
    sample_weight: NDArray[np.float64] | None = None

    def find(self) -> Artifact | Miss:
        """What the step makes, if it has been made."""
        return find(self.path, self.inputs)


def stage_step(prepared: Prepared, stage: str, parents: Mapping[str, Artifact]) -> Step:
    """One of the stages that all members share.

    Args:
        prepared: the run.
        stage: its name.
        parents: the finished stages before it, by name.
    """
    config, inputs = prepared.config, _inputs(prepared, stage, parents)
    match stage:
        case "teacher":
            inputs |= {"model": prepared.checkpoint.digest, "teacher": asdict(config.teacher)}
        case "half":
            inputs |= {"width": config.width, "half": asdict(config.half)}
        case "ternary":
            inputs |= {"bits": config.bits, "ternary": asdict(config.ternary)}
    return Step(stage, stage, prepared.directory / stage, inputs)


def member_step(
    prepared: Prepared,
    member: int,
    sample_weight: NDArray[np.float64],
    parents: Mapping[str, Artifact],
    fold: int | None = None,
) -> Step:
    """A member, or one of the folds that judge it.

    Args:
        prepared: the run.
        member: its number.
        sample_weight: what it trains with, [n], sums to 1.
        parents: the finished stages, by name.
        fold: the number of the fold; None for the member itself.
    """
    ensemble, settings = prepared.config.ensemble, asdict(prepared.config.member)
    if ensemble.strategy != "C":
        del settings["hidden_epochs"], settings["hidden_learning_rate"]
    inputs = _inputs(prepared, "member", parents) | {
        "member": member,
        "settings": settings,
        "strategy": ensemble.strategy,
        "use_of_weight": ensemble.sample_weight,
        "sample_weight": hash_arrays({"sample_weight": sample_weight}),
    }
    name, directory = member_name(member, fold), f"{member:03d}"
    if fold is not None:
        directory += f"-fold-{fold}"
    path = prepared.directory / "members" / directory
    return Step(name, "member", path, inputs, member, sample_weight)


def member_name(member: int, fold: int | None = None) -> str:
    """What people read: `member 000`, `member 000 fold 1`."""
    return f"member {member:03d}" + ("" if fold is None else f" fold {fold}")


def _inputs(prepared: Prepared, stage: str, parents: Mapping[str, Artifact]) -> dict[str, Any]:
    training = asdict(prepared.config.training)
    del training["eval_batch_size"]
    return {
        "data": fingerprint(prepared.data),
        "seed": prepared.config.seed,
        "training": training,
        "parents": {name: parents[name].digest for name in _PARENTS[stage]},
    }
