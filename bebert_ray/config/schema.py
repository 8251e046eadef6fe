"""The configuration of a run: every key, its default and what it may be.

Nested frozen dataclasses, checked by pydantic. Types are strict: `members: 2.5` and
`seed: true` are refused, though a whole number will do where a real one is meant.

The dataclasses must not be keyword-only: pydantic then reorders the fields, and a default that is
derived from an earlier field would not see it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError, PydanticUseDefault

from bebert_ray.config.bits import Bits
from bebert_ray.data.tasks import CUSTOM, TASKS, task_name
from bebert_ray.errors import UserError
from bebert_ray.paths import expand

_CHECKS = ConfigDict(extra="forbid", allow_inf_nan=False)


def _place(text: str) -> str:
    """A path with `~` expanded; a URI or a name as it is."""
    try:
        return expand(text)
    except UserError as error:
        raise ValueError(str(error)) from None


def _task(text: str) -> str:
    try:
        return task_name(text)
    except UserError as error:
        raise ValueError(str(error)) from None


def _null_is_default(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{letter}i": 1024**power for power, letter in enumerate("kmgt", 1)
}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?)?b", re.IGNORECASE)


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _BYTES.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be bytes, a number above 0 or such as 4GB or 512MiB; or null")
    number, unit = match.groups()
    return float(number) * _UNITS[(unit or "").lower()]


FULL_WIDTH = ("1-1-2", "1-1-1")  # bits of members whose weights are not split

Count = Annotated[int, Field(strict=True, ge=1)]
Real = Annotated[float, Field(strict=True)]
PathText = Annotated[str, Field(min_length=1), AfterValidator(_place)]
Precision = Literal["auto", "bf16", "fp32"]
Derived = BeforeValidator(_null_is_default)
Gpu = Annotated[float, Field(strict=True, ge=0, le=1)]
Bytes = Annotated[float, Field(strict=True, gt=0), BeforeValidator(_bytes)]

Epochs = Annotated[Count, Field(description="passes over the training examples")]
LearningRate = Annotated[Real, Field(gt=0, lt=1, description="peak learning rate of AdamW")]
BatchSize = Annotated[Count, Field(description="examples in a training step")]
HiddenEpochs = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        description="passes that match hidden states, and attention scores or directions",
    ),
]
HiddenLearningRate = Annotated[
    Real, Field(gt=0, lt=1, description="peak learning rate of those passes")
]


@dataclass(frozen=True, config=_CHECKS)
class DataConfig:
    """Where the examples come from and how they are cut."""

    path: PathText | None = Field(
        default=None,
        description="GLUE directory (official TSV layout), a data file, or a directory with "
        "train.* and dev.*; null: the hub",
    )
    max_train: Annotated[int, Field(strict=True, ge=2)] | None = Field(
        default=None,
        description="keep only this many training examples (seeded, classes in proportion)",
    )
    max_length: int = Field(
        default=128,
        strict=True,
        ge=8,
        le=512,
        description="longest input, in tokens; the rest is cut",
    )
    holdout: Real = Field(
        default=0.1, gt=0, lt=1, description="part of train that every choice is made on"
    )
    text_columns: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=2,
        description="custom: the text column, or a pair of them",
    )
    label_column: str | None = Field(
        default=None, description="custom: the column with the label or score"
    )
    kind: Literal["classification", "regression"] = Field(
        default="classification", description="custom: what the labels are"
    )
    dev_path: PathText | None = Field(
        default=None,
        description="custom: file of the reported split; null: dev.* beside train.*, else a seeded "
        "tenth of the file",
    )


@dataclass(frozen=True, config=_CHECKS)
class TeacherConfig:
    """Fine-tuning of the full-precision teacher."""

    epochs: Annotated[
        int,
        Field(
            strict=True,
            ge=0,
            description="passes over the training examples; 0: the checkpoint is a finished "
            "classifier of these labels, and is the teacher as it is",
        ),
    ] = 3
    learning_rate: LearningRate = 1e-4
    batch_size: BatchSize = 32


@dataclass(frozen=True, config=_CHECKS)
class HalfConfig:
    """Distillation of the teacher into the narrowed model."""

    epochs: Epochs = 3
    learning_rate: LearningRate = 1e-4
    batch_size: BatchSize = 32


@dataclass(frozen=True, config=_CHECKS)
class TernaryConfig:
    """Two-stage distillation into the ternary model: hidden states and attention, then logits."""

    hidden_epochs: HiddenEpochs = 3
    hidden_learning_rate: HiddenLearningRate = 3e-4
    epochs: Epochs = 3
    learning_rate: LearningRate = 1e-4
    batch_size: BatchSize = 32


@dataclass(frozen=True, config=_CHECKS)
class BinaryConfig:
    """Two-stage distillation into a fully binary model, and which one: directions, then logits.

    The last three choose how one-bit activations come about, and mean nothing to wider ones.
    """

    through: tuple[Literal["1-1-8", "1-1-4", "1-1-2"], ...] = Field(
        default=(),
        description="widths to pass through, each model taught by the one before it, such as "
        "[1-1-2]; BiT's multi-distillation, meant for all of BiT's options",
    )
    hidden_epochs: HiddenEpochs = 6
    hidden_learning_rate: HiddenLearningRate = 5e-4
    epochs: Epochs = 3
    learning_rate: LearningRate = 1e-4
    batch_size: BatchSize = 32
    activations: Literal["sign", "elastic"] = Field(
        default="sign",
        description="of 1-1-1 alone; sign: nothing learned (BiBERT); elastic: a learned scale and "
        "threshold (BiT)",
    )
    attention: Literal["bi", "softmax"] = Field(
        default="bi",
        description="of 1-1-1 alone; bi: scores above zero count, without softmax (BiBERT); "
        "softmax: large enough probabilities count, by a learned threshold (BiT)",
    )
    two_sets: bool = Field(
        default=False,
        strict=True,
        description="of 1-1-1 alone; ReLU in the FFN, and {0, 1} for what it puts out instead of "
        "{-1, 1} (BiT)",
    )


@dataclass(frozen=True, config=_CHECKS)
class MemberConfig:
    """Training of each binary member; the hidden passes belong to strategy C."""

    hidden_epochs: HiddenEpochs = 1
    hidden_learning_rate: HiddenLearningRate = 3e-4
    epochs: Epochs = 3
    learning_rate: LearningRate = 1e-4
    batch_size: BatchSize = 32
    margins: Literal["random", "split"] = Field(
        default="random",
        description="magnitudes of the split weights that a member starts from; random: drawn anew "
        "for each member, who then has bits of its own that train; split: as splitting leaves "
        "them, where hardly any bit flips. The function is the same",
    )
    latent_rate: Real = Field(
        default=1.0,
        gt=0,
        description="learning rate of the latent binary weights, as a multiple of the others'",
    )
    warmup: Annotated[Real, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="part of the steps that the rate climbs; null: training.warmup",
    )
    quantizer_learning_rate: Annotated[Real, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="learning rate of clips and step sizes; null: training.quantizer_learning_rate",
    )


@dataclass(frozen=True, config=_CHECKS)
class TrainingConfig:
    """What every training stage shares."""

    precision: Precision = Field(
        default="auto",
        description="arithmetic of the matrix products, weights are always fp32; auto: bf16 where "
        "the machine multiplies it (GPU, AVX512-BF16, AMX), else fp32",
    )
    warmup: Real = Field(
        default=0.1, ge=0, le=1, description="part of the steps that the rate climbs"
    )
    weight_decay: Real = Field(default=0.01, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: Real = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    quantizer_learning_rate: Real = Field(
        default=1e-4,
        gt=0,
        lt=1,
        description="learning rate of the quantizers' clips and step sizes",
    )
    temperature: Real = Field(default=1.0, gt=0, description="softens the logits in distillation")
    dropout: Real = Field(
        default=0.1, ge=0, lt=1, description="dropout of the teacher and the half model"
    )
    eval_batch_size: Count = Field(default=128, description="examples in an evaluation step")
    checkpoint_every: Count = Field(
        default=500,
        description="steps between checkpoints; each epoch ends with one besides",
    )


@dataclass(frozen=True, config=_CHECKS)
class EnsembleConfig:
    """How the members differ, and in which order they train."""

    members: Count = Field(default=4, description="number of binary members")
    method: Literal["boosting", "bagging"] = Field(
        default="boosting",
        description="boosting: SAMME, AdaBoost.R2 for regression; bagging: bootstrap",
    )
    strategy: Literal["A", "B", "C"] = Field(
        default="A",
        description="A: no distillation, B: logits, C: hidden states and attention, then logits",
    )
    schedule: Annotated[Literal["sequential", "pipelined", "parallel"], Derived] = Field(
        default_factory=lambda given: (
            "parallel" if given.get("method") == "bagging" else "sequential"
        ),
        json_schema_extra={"default": None},
        description="boosting: sequential (the default: one member after another) or pipelined "
        "(all at once, in rounds); bagging: parallel",
    )
    rounds: Annotated[int, Field(strict=True, ge=2)] | None = Field(
        default=None,
        description="pipelined: rounds that a member's epochs are divided into, the later ones the "
        "longer if they are uneven; null: one an epoch",
    )
    sample_weight: Literal["resample", "loss"] = Field(
        default="resample",
        description="draw examples by their weight, or weight each example's loss",
    )
    learning_rate: Real = Field(
        default=0.5,
        gt=0,
        le=1,
        description="shrinkage of each member's say in boosting; 1: plain AdaBoost",
    )
    floor: Real = Field(
        default=0.1, ge=0, le=1, description="uniform weight mixed into what a member sees; 0: none"
    )
    errors: Literal["train", "holdout", "out_of_fold"] = Field(
        default="holdout", description="the predictions that boosting takes a member's errors from"
    )
    folds: int = Field(
        default=3, strict=True, ge=2, description="number of folds for errors: out_of_fold"
    )
    loss: Literal["linear", "square", "exponential"] = Field(
        default="linear", description="loss of AdaBoost.R2 (regression)"
    )

    @property
    def fold_numbers(self) -> range:
        """The folds that are trained beside each member, for predictions of examples not seen."""
        out_of_fold = self.method == "boosting" and self.errors == "out_of_fold"
        return range(self.folds if out_of_fold else 0)


@dataclass(frozen=True, config=_CHECKS)
class StageResources:
    """What Ray sets aside for one of the stages before the members."""

    cpu: Count | None = Field(default=None, description="CPUs (threads); null: all of one node")
    gpu: Gpu | None = Field(
        default=None,
        description="GPU, or a share of one; null: one if the cluster has any; 0: the CPU",
    )
    memory: Bytes | None = Field(
        default=None,
        description="bytes, or such as 4GB, 512MiB; null: an estimate from the model's shape",
    )


@dataclass(frozen=True, config=_CHECKS)
class MemberResources:
    """What Ray sets aside for a member."""

    cpu: Count | None = Field(
        default=None,
        description="CPUs (threads); null: shared out evenly over the members in flight",
    )
    gpu: Gpu | None = Field(
        default=None,
        description="GPU, or a share of one; null: shared out evenly if the cluster has any; 0: "
        "the CPU",
    )
    memory: Bytes | None = Field(
        default=None,
        description="bytes, or such as 4GB, 512MiB; null: an estimate from the model's shape",
    )


@dataclass(frozen=True, config=_CHECKS)
class ResourcesConfig:
    """What the run may take of the cluster, and how it handles processes that die."""

    num_cpus: Count | None = Field(
        default=None,
        description="CPUs of a Ray that the job starts itself; null: all that this process may use",
    )
    stage_workers: Count = Field(
        default=1,
        description="data-parallel processes of each earlier stage; sums round otherwise with "
        "another number",
    )
    max_restarts: Annotated[int, Field(strict=True, ge=0)] = Field(
        default=3, description="how often the work of a process that died is taken up again"
    )
    patience: Real = Field(
        default=600.0,
        gt=0,
        description="seconds without a sign of life after which a process counts as hung, and is "
        "replaced as one that died",
    )
    stage: StageResources = Field(
        default_factory=StageResources, description="each process of an earlier stage"
    )
    member: MemberResources = Field(default_factory=MemberResources, description="each member")


@dataclass(frozen=True, config=_CHECKS)
class ExportConfig:
    """The packed model that a run ends with."""

    remainder: Literal["fp16", "fp32", "none"] = Field(
        default="fp16",
        description="how all that is not binary is stored: fp16 is smaller, fp32 gives the trained "
        "members' logits to the bit; none: no packed model is made",
    )


class Conflict(NamedTuple):
    """Settings that are fine alone but not together."""

    key: str  # the one to change first
    others: tuple[str, ...]  # what it clashes with
    message: str


@dataclass(frozen=True, config=_CHECKS)
class Config:
    """A run, from the task to the evaluated ensemble.

    Raises:
        pydantic.ValidationError: a value has the wrong type or range, a key is unknown, or two
            settings contradict each other. `load_config` turns it into a `UserError`.
    """

    task: Annotated[str, AfterValidator(_task)] = Field(
        json_schema_extra={"enum": [*TASKS, CUSTOM]},
        description="a GLUE task, the built-in demo, or your own data",
    )
    model: PathText = Field(
        default="bundled", description="BERT checkpoint: a directory, a hub name, or bundled"
    )
    bits: Literal["1-1-8", "1-1-4", "1-1-2", "1-1-1"] = Field(
        default="1-1-8", description="bits of a member's weights, embeddings and activations"
    )
    width: Annotated[Real, Field(gt=0, le=1), Derived] = Field(
        default_factory=lambda given: 1.0 if given.get("bits") in FULL_WIDTH else 0.5,
        json_schema_extra={"default": None},
        description="part of the heads and FFN neurons to keep; null: 0.5, and all of them (1) in "
        "1-1-2 and 1-1-1, whose weights are not split",
    )
    selection: Literal["holdout", "dev"] = Field(
        default="holdout",
        description="split that choices are made on; dev is the published protocol",
    )
    seed: int = Field(
        default=42, strict=True, ge=0, lt=2**32, description="seed of every random draw"
    )
    output: Annotated[PathText, Derived] = Field(
        default_factory=lambda given: f"runs/{given.get('task')}",
        json_schema_extra={"default": None},
        description="run directory; null: runs/TASK",
    )
    fresh: bool = Field(
        default=False, strict=True, description="start over in an existing run directory"
    )
    data: DataConfig = Field(default_factory=DataConfig, description="the examples")
    teacher: TeacherConfig = Field(
        default_factory=TeacherConfig, description="fine-tuning at full precision"
    )
    half: HalfConfig = Field(
        default_factory=HalfConfig, description="distillation into the narrowed model"
    )
    ternary: TernaryConfig = Field(
        default_factory=TernaryConfig, description="distillation into the ternary model"
    )
    binary: BinaryConfig = Field(
        default_factory=BinaryConfig, description="1-1-2 and 1-1-1: distillation in place of those"
    )
    member: MemberConfig = Field(
        default_factory=MemberConfig, description="training of each binary member"
    )
    training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="what every training stage shares"
    )
    ensemble: EnsembleConfig = Field(
        default_factory=EnsembleConfig, description="how the members differ"
    )
    export: ExportConfig = Field(
        default_factory=ExportConfig, description="the packed model that the run ends with"
    )
    resources: ResourcesConfig = Field(
        default_factory=ResourcesConfig, description="what the run may take of the cluster"
    )

    @property
    def rounds(self) -> int:
        """How many rounds a member trains in: 1 unless the schedule is pipelined."""
        if self.ensemble.schedule != "pipelined":
            return 1
        return self.ensemble.rounds or self.member.epochs

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        conflicts = list(_conflicts(self))
        if conflicts:
            text = "; ".join(f"{conflict.key}: {conflict.message}" for conflict in conflicts)
            raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": conflicts})
        return self


def _conflicts(config: Config) -> Iterator[Conflict]:
    data, resources = config.data, config.resources
    if config.task == CUSTOM:
        for name in ("path", "text_columns", "label_column"):
            if not getattr(data, name):
                yield Conflict(f"data.{name}", ("task",), "the custom task needs it; none is given")
    else:
        for name in ("text_columns", "label_column", "kind", "dev_path"):
            if getattr(data, name) != getattr(DataConfig(), name):
                yield Conflict(
                    f"data.{name}",
                    ("task",),
                    f"{config.task} brings its own columns; leave it out, or set task=custom",
                )
    if config.task == "demo" and data.path is not None:
        yield Conflict("data.path", ("task",), "the demo task makes its own data; leave it out")
    columns = [*(data.text_columns or ()), data.label_column]
    if len(set(columns)) < len(columns):
        yield Conflict(
            "data.text_columns", ("data.label_column",), "names the same column more than once"
        )
    yield from _schedule_conflicts(config)
    yield from _width_conflicts(config)
    if resources.stage_workers > 1 and 0 < (resources.stage.gpu or 0) < 1:
        yield Conflict(
            "resources.stage.gpu",
            ("resources.stage_workers",),
            "data-parallel processes cannot share a GPU; give each one (1) or none (0)",
        )
    for name, cpu in (("stage", resources.stage.cpu), ("member", resources.member.cpu)):
        if cpu is not None and resources.num_cpus is not None and cpu > resources.num_cpus:
            yield Conflict(
                f"resources.{name}.cpu",
                ("resources.num_cpus",),
                f"asks for {cpu} CPUs where resources.num_cpus allows {resources.num_cpus}",
            )


def _width_conflicts(config: Config) -> Iterator[Conflict]:
    if config.bits in FULL_WIDTH and config.width < 1:
        yield Conflict(
            "width",
            ("bits",),
            f"{config.bits} members binarize the teacher's own weights, and have its width; leave "
            "it out",
        )
    widths = [Bits.parse(bits).activations for bits in (*config.binary.through, config.bits)]
    if config.binary.through and not (
        config.bits in FULL_WIDTH and all(a > b for a, b in pairwise(widths))
    ):
        yield Conflict(
            "binary.through",
            ("bits",),
            f"{', '.join(config.binary.through)} does not lead to {config.bits}; give fewer bits "
            "from each to the next, with bits=1-1-2 or 1-1-1 as the last",
        )


def _schedule_conflicts(config: Config) -> Iterator[Conflict]:
    ensemble, epochs = config.ensemble, config.member.epochs
    schedule, among = ensemble.schedule, ("ensemble.method",)
    if ensemble.method == "boosting" and schedule == "parallel":
        yield Conflict(
            "ensemble.schedule",
            among,
            "boosting cannot be parallel, each member needs the errors of those before it; "
            "set ensemble.schedule=pipelined or ensemble.method=bagging",
        )
    if ensemble.method == "bagging" and schedule == "pipelined":
        yield Conflict(
            "ensemble.schedule",
            among,
            "bagging members need nothing of each other; set ensemble.schedule=parallel",
        )
    if schedule != "pipelined":
        if ensemble.rounds is not None:
            yield Conflict(
                "ensemble.rounds",
                ("ensemble.schedule",),
                f"{schedule} members train in one go; leave it out, or set "
                "ensemble.schedule=pipelined",
            )
        return
    if ensemble.errors == "out_of_fold":
        yield Conflict(
            "ensemble.errors",
            ("ensemble.schedule",),
            "out_of_fold needs the folds' models before the next member starts; set "
            "ensemble.schedule=sequential or ensemble.errors=holdout",
        )
    if not 2 <= config.rounds <= epochs:
        yield Conflict(
            "ensemble.rounds",
            ("member.epochs", "ensemble.schedule"),
            f"{epochs} epochs of a member cannot be divided into {max(2, config.rounds)} rounds of "
            "whole epochs; change member.epochs or ensemble.rounds",
        )
