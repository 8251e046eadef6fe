"""Kinds of members: for each, how its shared checkpoint is made and how it is distilled.

Loads no torch, so that `jobs/status.py` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bebert_ray.config.bits import Bits
from bebert_ray.config.schema import (
    MAX_TRUNKS,
    BinaryConfig,
    Config,
    HalfConfig,
    MemberConfig,
    TeacherConfig,
    TernaryConfig,
)

NO_FIGURE = ("eval_batch_size", "checkpoint_every", "compile", "gradient_checkpointing")
"""Keys of `training` on which no figure depends, but for rounding."""


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
        trunk: which of the shared checkpoints it leads to.
        width: of the model that it makes, a part of the teacher's heads and neurons.
    """

    name: str
    recipe: str
    parents: tuple[str, ...] = ()
    section: TeacherConfig | HalfConfig | TernaryConfig | BinaryConfig | MemberConfig | None = None
    bits: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    trunk: int = 0
    width: float = 1.0


@dataclass(frozen=True)
class Trunk:
    """What a member comes from.

    Attributes:
        start: the stage whose model it starts as.
        teacher: the stage that teaches it, in strategies B and C.
    """

    start: str
    teacher: str


@dataclass(frozen=True)
class Kind:
    """How members of some widths in bits come to be.

    Attributes:
        stages: what members share, in an order in which each comes after its parents.
        trunks: the shared checkpoints; the members are dealt out to them in turn.
        match: what of a teacher's layers is matched beside the hidden states: attention `scores`
            (BinaryBERT), or the `directions` of queries, keys and values (BiBERT).
        rivals: the baselines of equal cost that are trained beside the members, and the stages
            that they come from; see `ensemble.baselines`.
    """

    stages: tuple[Stage, ...]
    trunks: tuple[Trunk, ...]
    match: Literal["scores", "directions"]
    rivals: tuple[Stage, ...] = ()

    def trunk_of(self, member: int) -> Trunk:
        """What a member comes from."""
        return self.trunks[member % len(self.trunks)]

    def stage(self, name: str) -> Stage:
        """The stage, or the baseline, of that name."""
        return next(stage for stage in (*self.stages, *self.rivals) if stage.name == name)


Chain = Callable[[Config, float, str, int], tuple[Stage, ...]]
"""From the configuration, the width, a suffix of names and a trunk to stages after the teacher."""


def split_chain(config: Config, width: float, suffix: str, trunk: int) -> tuple[Stage, ...]:
    """BinaryBERT: a ternary model of half width, each weight split into two binary ones."""
    half = {"width": width, "half": asdict(config.half)}
    ternary = {"bits": config.bits, "ternary": _used(config.ternary)}
    names = {name: name + suffix for name in ("half", "ternary", "split")}

    def stage(name: str, parent: str, section: Any, bits: str | None, inputs: Any) -> Stage:
        return Stage(names[name], name, (parent,), section, bits, inputs, trunk, width)

    return (
        stage("half", TEACHER, config.half, None, half),
        stage("ternary", names["half"], config.ternary, config.bits, ternary),
        stage("split", names["ternary"], None, config.bits, {}),
    )


def binary_chain(config: Config, width: float, suffix: str, trunk: int) -> tuple[Stage, ...]:
    """BiBERT: the teacher's own weights binarized; as BiT does, by way of wider activations."""
    stages: list[Stage] = []
    for bits in (*config.binary.through, config.bits):
        settings = _used(config.binary)
        del settings["through"]
        if Bits.parse(bits).activations > 1:
            del settings["activations"], settings["attention"], settings["two_sets"]
        inputs = {"bits": bits, "binary": settings}
        parents = (stages[-1].name if stages else TEACHER,)
        name = f"binary-{bits}{suffix}"
        stages.append(Stage(name, "binary", parents, config.binary, bits, inputs, trunk, width))
    return tuple(stages)


KINDS: dict[str, tuple[Chain, Literal["scores", "directions"]]] = {
    "1-1-8": (split_chain, "scores"),
    "1-1-4": (split_chain, "scores"),
    "1-1-2": (binary_chain, "directions"),
    "1-1-1": (binary_chain, "directions"),
}
ENCODER = "encoder"
"""What every run starts from: the encoder's weights and tokenizer."""
TEACHER = "teacher"
MODEL = "model"
"""The last step, which packs the members."""
LONGER, WIDER, DISTILLED = "longer", "wider", "distilled"
"""Baselines of equal cost, and the member that is trained on the ensemble's predictions."""

TRUNK = "-trunk"
"""In the name of a stage, before the number of its trunk; the first trunk has neither."""

_WIDE = "-wide"
_TRUNKS = ("", *(f"{TRUNK}{number}" for number in range(1, MAX_TRUNKS)))
STAGE_NAMES = (
    TEACHER,
    *(
        f"{name}{suffix}"
        for suffix in (*_TRUNKS, _WIDE)
        for name in ("half", "ternary", "split", *(f"binary-{bits}" for bits in KINDS))
    ),
)
RIVAL_NAMES = (LONGER, WIDER, DISTILLED)


def is_rival(stage: str) -> bool:
    """Whether no member needs the stage: a baseline of equal cost, or what leads to one.

    Examples:
        >>> is_rival("wider"), is_rival("half-wide"), is_rival("half")
        (True, True, False)
    """
    return stage in RIVAL_NAMES or stage.endswith(_WIDE)


def kind_of(config: Config) -> Kind:
    """The kind of a run's members."""
    chain, match = KINDS[config.bits]
    inputs: dict[str, Any] = {TEACHER: asdict(config.teacher)}
    if config.layers is not None:
        inputs["layers"] = config.layers
    teacher = Stage(TEACHER, TEACHER, (), config.teacher, inputs=inputs)
    stages, trunks = [teacher], []
    for number in range(config.ensemble.trunks):
        made = chain(config, config.width, _TRUNKS[number], number)
        stages += made
        trunks.append(_trunk(made))
    return Kind(tuple(stages), tuple(trunks), match, tuple(_rivals(config, chain, trunks[0])))


def _trunk(chain: tuple[Stage, ...]) -> Trunk:
    # Split members learn from the half model, fully binary ones from what came before them.
    teacher = chain[0].name if chain[0].recipe == "half" else chain[-1].parents[0]
    return Trunk(chain[-1].name, teacher)


def _rivals(config: Config, chain: Chain, trunk: Trunk) -> list[Stage]:
    times, rivals = config.ensemble.members, []
    single = {"member": member_settings(config), "strategy": config.ensemble.strategy}

    def rival(name: str, trunk: Trunk, epochs: int, width: float) -> Stage:
        return Stage(
            *(name, "single", (trunk.start, trunk.teacher), config.member, config.bits),
            inputs=single | {"times": epochs},
            width=width,
        )

    if LONGER in config.ensemble.baselines:
        rivals.append(rival(LONGER, trunk, times, config.width))
    if WIDER in config.ensemble.baselines:
        width = min(1.0, times * config.width)
        wide = chain(config, width, _WIDE, 0)
        rivals += [*wide, rival(WIDER, _trunk(wide), 1, width)]
    if config.ensemble.distill:
        rivals.append(
            Stage(
                *(DISTILLED, "student", (trunk.start,), config.member, config.bits),
                inputs={"member": member_settings(config)},
                width=config.width,
            )
        )
    return rivals


def member_settings(config: Config) -> dict[str, Any]:
    """The settings of `member` that its outcome depends on."""
    settings = {name: value for name, value in asdict(config.member).items() if value is not None}
    if config.ensemble.strategy != "C":
        for name in ("joint", "hidden_epochs", "hidden_learning_rate"):
            del settings[name]
        return settings
    return _without_hidden(settings)


def _used(section: TernaryConfig | BinaryConfig) -> dict[str, Any]:
    return _without_hidden(asdict(section))


def _without_hidden(settings: dict[str, Any]) -> dict[str, Any]:
    if settings["joint"]:
        del settings["hidden_epochs"], settings["hidden_learning_rate"]
    else:
        del settings["joint"]  # so that what was made before this key was there is still valid
    return settings
