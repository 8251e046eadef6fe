"""The outputs of one model under one suite: a piece of work that any process can do."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bebert_ray.augment.copies import Choices, replace_some
from bebert_ray.boosting.vote import outputs
from bebert_ray.data.batches import eval_batches
from bebert_ray.data.columns import tokenize
from bebert_ray.data.corpus import Split
from bebert_ray.nn.bert import load_model
from bebert_ray.packed.model import finalised
from bebert_ray.packed.quantizer import Remainder
from bebert_ray.robustness.disturb import flipped_bits, has_bits, noisy_embeddings
from bebert_ray.robustness.perturb import TEXT
from bebert_ray.robustness.suites import Suite
from bebert_ray.scoring.classifier import Classifier
from bebert_ray.storage import Location, fetch
from bebert_ray.training.predict import in_order, predict_batches

CLEAN = Suite("clean", "file", "nothing is disturbed", (1.0,))

Draw = tuple[float, int]
"""A strength, and the number of a repetition."""


@dataclass(frozen=True)
class Subject:
    """A model that is measured.

    Attributes:
        name: for people.
        place: an artifact of the run, or the directory of any sequence classifier.
        remainder: of a member, the precision of the file that it ships in; it is measured packed,
            as it is scored in the run.
        is_other: whether it is of another kind than the run's models.
        order: of another one: where each of the task's classes is among its own.
    """

    name: str
    place: Location
    remainder: Remainder | None = None
    is_other: bool = False
    order: tuple[int, ...] = ()


class Item(NamedTuple):
    """A piece of work: a model and a suite."""

    subject: Subject
    suite: Suite


@dataclass(frozen=True)
class Job:
    """What all pieces of work have in common, as plain data.

    Attributes:
        examples: of each suite with texts of its own, such as `clean`, those; all others disturb
            those of `clean`.
        choices: of each example of `clean`, the words that can be replaced; for `replace`.
        tokenizer: of the run.
        max_length: most tokens of an example.
        batch_size: examples in a forward pass.
        seed: of the random choices.
        repeats: how often each disturbance is drawn.
    """

    examples: dict[str, Split]
    choices: list[Choices]
    tokenizer: Any
    max_length: int
    batch_size: int
    seed: int
    repeats: int

    def draws(self, suite: Suite) -> list[Draw]:
        """What there is to measure of a suite."""
        repeats = self.repeats if suite.kind != "file" and suite.name != "truncate" else 1
        return [(strength, number) for strength in suite.strengths for number in range(repeats)]


def measure(job: Job, item: Item, device: torch.device) -> dict[Draw, NDArray[np.float64]] | None:
    """What a model says of a suite's examples.

    Args:
        job: see `Job`.
        item: the model and the suite.
        device: where to compute.

    Returns:
        By strength and repetition: probabilities [n, K], or values [n, 1] in regression. None if
        the suite disturbs what the model does not have.

    Raises:
        RunError: an artifact of the run is damaged.
        UserError: another model cannot be loaded, or cannot score these texts.
    """
    subject, suite = item
    model = _Other(subject, job) if subject.is_other else _Own(subject, job, device)
    found: dict[Draw, NDArray[np.float64]] = {}
    base = job.examples.get(suite.name, job.examples[CLEAN.name])
    if suite.kind == "bits" and (subject.is_other or not has_bits(model.network)):
        return None
    for strength, number in job.draws(suite):
        seed = zlib.crc32(f"{job.seed}/{suite.name}/{number}".encode())
        split, disturbed = base, _disturbed(model.network, suite, strength, seed)
        if suite.kind == "text":
            split = disturb_texts(base, suite, strength, seed, job.choices)
        try:
            with disturbed:
                found[strength, number] = model.score(split)
        except NotImplementedError:
            return None
    return found


def disturb_texts(
    split: Split, suite: Suite, strength: float, seed: int, choices: list[Choices]
) -> Split:
    """The examples with their texts disturbed; each has random choices of its own."""

    def new(row: int, texts: tuple[str, ...]) -> tuple[str, ...]:
        rng = np.random.default_rng([seed, row])
        if suite.name == "replace":
            return replace_some(texts, choices[row], strength, rng)
        return tuple(TEXT[suite.name](text, strength, rng) for text in texts)

    rows = [new(row, texts) for row, texts in enumerate(zip(*split.texts, strict=True))]
    return Split(tuple(list(column) for column in zip(*rows, strict=True)), split.labels)


def _disturbed(
    network: Any, suite: Suite, strength: float, seed: int
) -> AbstractContextManager[None]:
    if suite.kind == "embeddings":
        return noisy_embeddings(network, strength, seed)
    if suite.kind == "bits":
        return flipped_bits(network, strength, seed)
    return nullcontext()


class _Own:
    """A model of the run."""

    def __init__(self, subject: Subject, job: Job, device: torch.device):
        model = load_model(fetch(subject.place).path).eval()
        if subject.remainder is not None:
            model = finalised(model, subject.remainder)
        self.network: Any = model.to(device)
        self._job = job

    def score(self, split: Split) -> NDArray[np.float64]:
        job = self._job
        unlabelled = Split(split.texts, np.zeros(len(split), np.int64))
        columns = tokenize(unlabelled, job.tokenizer, job.max_length)
        batches = list(eval_batches(columns.lengths, job.batch_size))
        logits = in_order(predict_batches(self.network, columns, batches), batches)
        return outputs(logits[None])[0]


class _Other:
    """Another sequence classifier."""

    def __init__(self, subject: Subject, job: Job):
        self._classifier = Classifier(subject.place, job.batch_size)
        self._order = list(subject.order)

    @property
    def network(self) -> Any:
        return self._classifier.network

    def score(self, split: Split) -> NDArray[np.float64]:
        scores = self._classifier.score(split.texts)
        return scores[:, self._order] if self._order else scores


def all_items(subjects: list[Subject], suites: list[Suite]) -> Iterator[Item]:
    """Every piece of work, those of undisturbed examples first."""
    for suite in (CLEAN, *suites):
        for subject in subjects:
            yield Item(subject, suite)
