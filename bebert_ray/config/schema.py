"""The configuration of a run: every key, its default and what it may be.

Nested frozen dataclasses, checked by pydantic. Types are strict: `members: 2.5` and
`seed: true` are refused, though a whole number will do where a real one is meant.

The dataclasses must not be keyword-only: pydantic then reorders the fields, and a default that is
derived from an earlier field would not see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError, PydanticUseDefault

from bebert_ray.config.bits import FULL_WIDTH
from bebert_ray.config.conflicts import find_conflicts
from bebert_ray.data.tasks import CUSTOM, TASKS, task_name
from bebert_ray.errors import UserError
from bebert_ray.paths import check_no_secret, expand

_CHECKS = ConfigDict(extra="forbid", allow_inf_nan=False)


def _place(text: str) -> str:
    """A path with `~` expanded, or a URI without secrets."""
    try:
        check_no_secret(text)
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


def _on_or_off(value: Any) -> Any:
    # YAML reads a bare on or off as a boolean.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


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
    if len(number) > 30:
        raise ValueError("is more than any machine has")
    return float(number) * _UNITS[(unit or "").lower()]


MAX_TRUNKS = 16

# Bounds are far above what is of use: they keep a slip of the finger from filling the memory.
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Size = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Real = Annotated[float, Field(strict=True)]
PathText = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_place)]
Name = Annotated[str, Field(max_length=1000)]
Precision = Literal["auto", "bf16", "fp32"]
Compile = Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)]
Derived = BeforeValidator(_null_is_default)
Gpu = Annotated[float, Field(strict=True, ge=0, le=1)]
Bytes = Annotated[float, Field(strict=True, gt=0, le=1e18), BeforeValidator(_bytes)]

Epochs = Annotated[Count, Field(description="passes over the training examples")]
LearningRate = Annotated[Real, Field(gt=0, lt=1, description="peak learning rate of AdamW")]
BatchSize = Annotated[Size, Field(description="examples in a training step")]
HiddenEpochs = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=10_000,
        description="passes that match hidden states, and attention scores or directions",
    ),
]
HiddenLearningRate = Annotated[
    Real, Field(gt=0, lt=1, description="peak learning rate of those passes")
]


Joint = Annotated[
    bool,
    Field(
        strict=True,
        description="one phase, in which hidden states and predictions are learned together, in "
        "`epochs` passes; hidden_epochs and hidden_learning_rate then mean nothing. false: two "
        "phases, one after the other",
    ),
]


def _joint_or(joint: float, two_phases: float) -> Callable[[dict[str, Any]], Any]:
    """A default that depends on `joint`, which is declared before."""
    return lambda given: joint if given.get("joint", True) else two_phases


@dataclass(frozen=True, config=_CHECKS)
class AugmentConfig:
    """Copies of training examples with some words replaced (TinyBERT, arXiv 1909.10351)."""

    copies: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=0, description="made of each training example; 0: none (TinyBERT: 20)"
    )
    probability: Real = Field(
        default=0.4, gt=0, le=1, description="that a word is replaced in a copy"
    )
    candidates: Count = Field(
        default=15, description="the likeliest replacements of a word, of which one is drawn"
    )
    share: Real = Field(
        default=0.5,
        gt=0,
        le=1,
        description="probability that a copy takes the place of its example in an epoch",
    )
    per_member: bool = Field(
        default=False,
        strict=True,
        description="whether each member trains on copies of its own; members of strategy A train "
        "on none",
    )
    model: PathText | None = Field(
        default=None,
        description="masked-language BERT (hub name or directory) that proposes replacements of "
        "words that are one token to it; null: word vectors alone",
    )
    vectors: PathText | None = Field(
        default=None,
        description="word vectors (GloVe text file) whose nearest words replace the others; null: "
        "without a model, the encoder's own word embeddings",
    )
    keep_numbers: bool = Field(
        default=True, strict=True, description="whether words with a digit stay as they are"
    )
    keep_names: bool = Field(
        default=True,
        strict=True,
        description="whether words capitalised within a sentence stay as they are",
    )
    keep_stop_words: bool = Field(
        default=True,
        strict=True,
        description="whether stop words (scikit-learn's English ones, such as not) stay",
    )


@dataclass(frozen=True, config=_CHECKS)
class DataConfig:
    """Where the examples come from and how they are cut."""

    path: PathText | None = Field(
        default=None,
        description="GLUE directory (official TSV layout), a data file, or a directory with "
        "train.* and dev.*; null: the hub",
    )
    max_train: Annotated[int, Field(strict=True, ge=2, le=10**12)] | None = Field(
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
    text_columns: tuple[Name, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=2,
        description="custom: the text column, or a pair of them",
    )
    label_column: Name | None = Field(
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
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig,
        description="copies of training examples with some words replaced",
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
    """Distillation into the ternary model: hidden states, attention and logits."""

    joint: Joint = True
    hidden_epochs: HiddenEpochs = 3
    hidden_learning_rate: HiddenLearningRate = 3e-4
    epochs: Annotated[Count, Derived] = Field(
        default_factory=_joint_or(6, 3),
        json_schema_extra={"default": None},
        description="passes over the training examples; null: 6 in one phase, 3 in the "
        "second of two",
    )
    learning_rate: Annotated[Real, Field(gt=0, lt=1), Derived] = Field(
        default_factory=_joint_or(1e-3, 1e-4),
        json_schema_extra={"default": None},
        description="peak learning rate of AdamW; null: 1e-3 in one phase, 1e-4 in the second "
        "of two",
    )
    batch_size: BatchSize = 32


@dataclass(frozen=True, config=_CHECKS)
class BinaryConfig:
    """Distillation into a fully binary model, and which one: hidden states, directions, logits.

    The last three choose how one-bit activations come about, and mean nothing to wider ones.
    """

    through: tuple[Literal["1-1-8", "1-1-4", "1-1-2"], ...] = Field(
        default=(),
        description="widths to pass through, each model taught by the one before it, such as "
        "[1-1-2]; BiT's multi-distillation, meant for all of BiT's options",
    )
    joint: Joint = False
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
    """Training of each binary member; `joint` and the hidden passes belong to strategy C."""

    joint: Joint = True
    hidden_epochs: HiddenEpochs = 1
    hidden_learning_rate: HiddenLearningRate = 3e-4
    epochs: Epochs = 3
    learning_rate: LearningRate = 1e-4
    batch_size: BatchSize = 32
    margins: Literal["random", "split"] = Field(
        default="random",
        description="magnitudes of the split weights that a member starts from; random: drawn anew "
        "for each member, so that its bits train and differ from those of the others; split: "
        "as splitting leaves them, and hardly any bit flips. The function is the same",
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
    compile: Compile = Field(
        default="auto",
        description="whether torch.compile makes one pass over memory of each quantizer; auto: on "
        "where products are in bf16 and there is a C++ compiler, or as the run began",
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
    eval_batch_size: Size = Field(default=128, description="examples in an evaluation step")
    checkpoint_every: Annotated[int, Field(strict=True, ge=1, le=10**12)] = Field(
        default=500,
        description="steps between checkpoints; each epoch ends with one besides",
    )
    accumulate: Count = Field(
        default=1,
        description="pieces that a batch is computed in, one after another; saves memory",
    )
    max_steps: Count | None = Field(
        default=None,
        description="most steps of each training, N times as many of the baseline `longer`; null: "
        "as many as its epochs have",
    )
    eval_every: Count | None = Field(
        default=None,
        description="steps between held-out scores within an epoch; null: at its end alone",
    )
    patience: Count | None = Field(
        default=None,
        description="held-out scores without a better one that end a training; null: none do",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        strict=True,
        description="compute activations twice in place of keeping them; saves memory",
    )


@dataclass(frozen=True, config=_CHECKS)
class EnsembleConfig:
    """How the members differ, and in which order they train."""

    members: Count = Field(default=4, description="number of binary members")
    method: Literal["boosting", "bagging", "uniform"] = Field(
        default="boosting",
        description="boosting: SAMME, AdaBoost.R2 for regression; bagging: a bootstrap sample for "
        "each member; uniform: every member sees all examples, and differs by seed, margins and "
        "copies",
    )
    strategy: Literal["A", "B", "C"] = Field(
        default="C",
        description="A: no distillation, B: logits, C: hidden states and attention too",
    )
    schedule: Annotated[Literal["sequential", "pipelined", "parallel"], Derived] = Field(
        default_factory=lambda given: (
            "sequential" if given.get("method") == "boosting" else "parallel"
        ),
        json_schema_extra={"default": None},
        description="boosting: sequential (the default: one member after another) or pipelined "
        "(all at once, in rounds); bagging and uniform: parallel",
    )
    rounds: Annotated[int, Field(strict=True, ge=2, le=10_000)] | None = Field(
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
        description="shrinkage of the alphas in boosting; 1: plain AdaBoost",
    )
    floor: Real = Field(
        default=0.1, ge=0, le=1, description="uniform weight mixed into what a member sees; 0: none"
    )
    errors: Literal["train", "holdout", "out_of_fold"] = Field(
        default="holdout", description="the predictions that boosting takes a member's errors from"
    )
    folds: int = Field(
        default=3, strict=True, ge=2, le=1000, description="number of folds for errors: out_of_fold"
    )
    loss: Literal["linear", "square", "exponential"] = Field(
        default="linear", description="loss of AdaBoost.R2 (regression)"
    )
    trunks: Annotated[int, Field(strict=True, ge=1, le=MAX_TRUNKS)] = Field(
        default=1,
        description="shared checkpoints, each with a half and a ternary model of its own, made in "
        "parallel from one teacher; the members are dealt out to them in turn",
    )
    baselines: tuple[Literal["longer", "wider"], ...] = Field(
        default=(),
        description="what N members are measured against at the same cost; longer: one member "
        "trained N times as long; wider: one member of N times the width (the teacher's at most)",
    )
    distill: bool = Field(
        default=False,
        strict=True,
        description="train one more member on the ensemble's predictions: one model back, at 1/N "
        "of the cost, reported beside the ensemble",
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
    max_restarts: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = Field(
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
        description="how all that is not binary is stored; members are rounded so before they are "
        "scored, and fp16 is smaller; none: no packed model is made (members as for fp16)",
    )
    cascade_loss: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how much the held-out score may fall, as a fraction, where a cascade asks "
        "members one after another and only as long as they are unsure; it is off unless asked for",
    )


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
    layers: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = Field(
        default=None,
        description="keep only the first so many layers of the checkpoint; null: all of them",
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
        conflicts = list(find_conflicts(self))
        if conflicts:
            text = "; ".join(f"{conflict.key}: {conflict.message}" for conflict in conflicts)
            raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": conflicts})
        return self
