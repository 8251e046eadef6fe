"""Kinds of members: for each, how its shared checkpoint is made and how it is distilled.

Loads no torch, so that `jobs/status.py` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bebert_ray.config.bits import Bits
from bebert_ray.config.schema import BinaryConfig, Config, HalfConfig, TeacherConfig, TernaryConfig


@dataclass(frozen=True)
class Stage:
    """One of the stages that all members share.

    Attributes:
        name: what people read, and its directory.
        recipe: which of `training.stages.RECIPES` trains it.
        parents: the stages that it learns from, the model that it begins as first.
        section: its epochs and rates; None where nothing is trained.
        bits: of the model that it makes; None for full precision.
        inputs: what of the configuration its outcome depends on, beside what all stages do.
    """

    name: str
    recipe: str
    parents: tuple[str, ...] = ()
    section: TeacherConfig | HalfConfig | TernaryConfig | BinaryConfig | None = None
    bits: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """How members of some widths in bits come to be.

    Attributes:
        stages: what they share, in order; they start from the last.
        teacher: the stage that teaches them, in strategies B and C.
        match: what of a teacher's layers is matched beside the hidden states: attention `scores`
            (BinaryBERT), or the `directions` of queries, keys and values (BiBERT).
    """

    stages: tuple[Stage, ...]
    teacher: str
    match: Literal["scores", "directions"]

    @property
    def start(self) -> str:
        """The stage whose model the members start from."""
        return self.stages[-1].name

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


def split_members(config: Config) -> Kind:
    """BinaryBERT: a ternary model of half width, each weight split into two binary ones."""
    half = {"width": config.width, "half": asdict(config.half)}
    ternary = {"bits": config.bits, "ternary": asdict(config.ternary)}
    return Kind(
        stages=(
            _teacher(config),
            Stage("half", "half", ("teacher",), config.half, inputs=half),
            Stage("ternary", "ternary", ("half",), config.ternary, config.bits, ternary),
            Stage("split", "split", ("ternary",), bits=config.bits),
        ),
        teacher="half",
        match="scores",
    )


def fully_binary_members(config: Config) -> Kind:
    """BiBERT: the teacher's own weights binarized; as BiT does, by way of wider activations."""
    stages = [_teacher(config)]
    for bits in (*config.binary.through, config.bits):
        settings = asdict(config.binary)
        del settings["through"]
        if Bits.parse(bits).activations > 1:
            del settings["activations"], settings["attention"], settings["two_sets"]
        inputs = {"bits": bits, "binary": settings}
        parents = (stages[-1].name,)
        stages.append(Stage(f"binary-{bits}", "binary", parents, config.binary, bits, inputs))
    return Kind(tuple(stages), teacher=stages[-2].name, match="directions")


KINDS: dict[str, Callable[[Config], Kind]] = {
    "1-1-8": split_members,
    "1-1-4": split_members,
    "1-1-2": fully_binary_members,
    "1-1-1": fully_binary_members,
}
MODEL = "model"
"""The last step, which packs the members."""
STAGE_NAMES = ("teacher", "half", "ternary", "split", *(f"binary-{bits}" for bits in KINDS))


def kind_of(config: Config) -> Kind:
    """The kind of a run's members."""
    return KINDS[config.bits](config)


def _teacher(config: Config) -> Stage:
    return Stage(
        "teacher", "teacher", (), config.teacher, inputs={"teacher": asdict(config.teacher)}
    )
