from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bebert_ray.config import Config, load_config
from bebert_ray.data.columns import Columns
from bebert_ray.data.tasks import TASKS
from bebert_ray.nn.checkpoint import find_checkpoint
from bebert_ray.storage import Artifact, Location, remove
from bebert_ray.training.checkpoints import Checkpoints, State
from bebert_ray.training.encoder import leave_encoder
from bebert_ray.training.fit import Progress
from bebert_ray.training.stages import RECIPES
from bebert_ray.training.work import Model, Splits, Work, leave_model

CLS, SEP, GOOD, BAD = 2, 3, 20, 21  # tokens of the tiny vocabulary; the last two carry the label


class Bag(nn.Module):
    """The least that can be trained: the mean of the word embeddings, and a classifier."""

    def __init__(self, num_labels: int = 2, dropout: float = 0.0):
        super().__init__()
        self.config = SimpleNamespace(num_labels=num_labels)
        self.word_embeddings = nn.Embedding(101, 8, sparse=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8, num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> SimpleNamespace:
        mask = attention_mask[..., None].float()
        mean = (self.word_embeddings(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.classifier(self.dropout(mean)))


def make_columns(n: int, regression: bool = False, seed: int = 0) -> Columns:
    """Sentences of 4 to 14 tokens, one of which says how it is labelled."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    sentences = []
    for label in labels:
        words = rng.integers(30, 80, rng.integers(2, 12))
        words[rng.integers(len(words))] = GOOD if label else BAD
        sentences.append(np.concatenate([[CLS], words, [SEP]]))
    lengths = [len(sentence) for sentence in sentences]
    input_ids = np.concatenate(sentences).astype(np.int32)
    return Columns(
        input_ids,
        np.zeros(len(input_ids), np.int8),
        np.concatenate([[0], np.cumsum(lengths)]),
        labels.astype(np.float32) if regression else labels,
    )


@pytest.fixture(scope="session")
def examples() -> Callable[..., Columns]:
    return make_columns


@pytest.fixture
def bag() -> Callable[..., Bag]:
    """Makes equal bags of words for equal seeds."""

    def make(seed: int = 0, dropout: float = 0.0) -> Bag:
        torch.manual_seed(seed)
        return Bag(dropout=dropout)

    return make


# --- stages and members -------------------------------------------------------------------------

SIZES = {"train": 24, "selection": 10, "dev": 12}
QUICK = [
    *(f"{stage}.epochs=1" for stage in ("teacher", "half", "ternary", "binary", "member")),
    *(f"{stage}.batch_size=8" for stage in ("teacher", "half", "ternary", "binary", "member")),
    "teacher.learning_rate=1e-3",  # in so few steps, enough that the outputs differ at 4 bits
    "ternary.joint=false",
    "ternary.hidden_epochs=1",
    "binary.hidden_epochs=1",
    "member.joint=false",
    "ensemble.strategy=A",
    "training.dropout=0.1",
]


class Stopped(BaseException):
    """Ends a training as if its process had died."""


@dataclass
class Dying(Checkpoints):
    """Checkpoints of a process that dies when it has saved `left` of them."""

    left: int = 0

    def save(self, state: State) -> None:
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise Stopped


@dataclass
class StagesRun:
    """A finished chain of stages.

    Attributes:
        work: what they worked with.
        case: the overrides that tell it from others.
        artifacts: what they made, by name.
        heard: what they reported.
    """

    work: Work
    case: tuple[str, ...]
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    heard: list[Progress] = field(default_factory=list)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples by split."""
        return {name: len(columns) for name, columns in self.work.splits.named().items()}

    @property
    def start(self) -> Artifact:
        """What the members start from."""
        return self.artifacts[self.work.kind.trunks[0].start]

    def train(self, stage: str, work: Work) -> Model:
        """The model of a stage, trained anew."""
        found = work.kind.stage(stage)
        return RECIPES[found.recipe](work, found)

    def configure(self, *overrides: str) -> Config:
        """The run's configuration, with overrides."""
        return load_config(None, [*QUICK, *self.case, *overrides])

    def new(self, *overrides: str) -> Work:
        """Work that finds no checkpoints, and keeps one after each step."""
        config = self.configure("training.checkpoint_every=1", *overrides)
        place = self.work.directory / "checkpoints" / "new"
        remove(place)
        return replace(self.work, config=config, checkpoints=Checkpoints(place, {}))

    def dies(self, work: Work, train: Callable[[Work], object], after: int) -> bool:
        """Whether a process that dies when it has saved so many checkpoints does so in `train`."""
        old = work.checkpoints
        dying = Dying(old.place, old.inputs, old.earlier, left=after)
        try:
            train(replace(work, checkpoints=dying))
        except Stopped:
            return True
        return False

    def later(
        self,
        work: Work,
        inputs: dict[str, Any] | None = None,
        earlier: tuple[dict[str, Any], ...] = (),
    ) -> tuple[Work, list[Progress]]:
        """The same in the next process, perhaps for a later round; and what it reports."""
        torch.manual_seed(99)  # another process has another state
        heard: list[Progress] = []
        checkpoints = Checkpoints(work.checkpoints.place, inputs or {}, earlier)
        return replace(work, checkpoints=checkpoints, report=heard.append), heard


def rarely(*values: Any) -> list[Any]:
    """Parameters of a test that runs with -m slow alone."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


SPLIT = [("task=sst2", "bits=1-1-8"), ("task=stsb", "bits=1-1-4")]
BINARY = [("task=sst2", "bits=1-1-1", "binary.through=[1-1-2]")]


@pytest.fixture(scope="session")
def make_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Callable[[tuple[str, ...]], StagesRun]:
    """Makes the stages of a case, once."""

    @cache
    def make(case: tuple[str, ...]) -> StagesRun:
        config = load_config(None, [*QUICK, *case])
        task = TASKS[config.task]
        columns = {
            split: make_columns(n, regression=task.is_regression, seed=i)
            for i, (split, n) in enumerate(SIZES.items())
        }
        directory = Location.of(tmp_path_factory.mktemp("run"))
        leave_encoder(find_checkpoint(str(tiny_checkpoint)), directory)
        work = Work(
            config,
            Splits(task, columns["train"], columns["selection"], {"dev": columns["dev"]}),
            directory,
            Checkpoints(directory / "checkpoints" / "none", {}),
        )
        made = StagesRun(work, case)  # in which tests go on, without being heard
        for name in (stage.name for stage in work.kind.stages):
            inputs = {"stage": name}
            checkpoints = Checkpoints(directory / "checkpoints" / name, inputs)
            one = replace(work, checkpoints=checkpoints, report=made.heard.append)
            model = made.train(name, one)
            made.artifacts[name], _ = leave_model(one, model, directory / name, name, inputs)
        return made

    return make


@pytest.fixture(scope="session", params=SPLIT + BINARY, ids="-".join)
def run(request: pytest.FixtureRequest, make_run: Callable[..., StagesRun]) -> StagesRun:
    """The stages of each kind of member."""
    return make_run(request.param)


@pytest.fixture(scope="session", params=SPLIT, ids="-".join)
def split_run(request: pytest.FixtureRequest, make_run: Callable[..., StagesRun]) -> StagesRun:
    """The stages of members whose weights are split."""
    return make_run(request.param)


@pytest.fixture(scope="session", params=BINARY, ids="-".join)
def binary_run(request: pytest.FixtureRequest, make_run: Callable[..., StagesRun]) -> StagesRun:
    """The stages of fully binary members."""
    return make_run(request.param)
