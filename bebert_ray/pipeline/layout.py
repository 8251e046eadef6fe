"""The run directory: every name in it, and where each thing is. Imports neither torch nor Ray.

config.yaml                     the configuration, with a checksum
data/                           the tokenised examples
augmented/                      copies of training examples, if data.augment asks for any
encoder/                        weights and tokenizer that the run starts from
teacher/, half/, …              the shared stages; half-trunk1/ … of a second shared checkpoint
longer/, wider/, distilled/     baselines of equal cost, and the ensemble distilled back
members/000/                    a member
members/000-round-1/            a round of a member, before the last one
members/000-fold-2/             a fold that predicts examples it was not trained on
weights/000-round-1.npy         the sample weights of a round of a member
model/                          the packed model
checkpoints/                    of what is in training
metrics.jsonl, tensorboard/     events and curves
logs/                           output of the processes
results.json, scores.png, report.html
robustness.json, robustness.png
.lock                           held by the driver of the run
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from bebert_ray.config.recipes import ENCODER, MODEL, RIVAL_NAMES, STAGE_NAMES
from bebert_ray.storage import Location
from bebert_ray.storage.copies import LOCK

CONFIG = "config.yaml"
DATA = "data"
AUGMENTED = "augmented"
MEMBERS = "members"
WEIGHTS = "weights"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
LOGS = "logs"
RESULTS = "results.json"
SCORES = "scores.png"
REPORT = "report.html"
ROBUSTNESS = "robustness.json"
ROBUSTNESS_CURVES = "robustness.png"

ARTIFACTS = (DATA, AUGMENTED, ENCODER, *STAGE_NAMES, *RIVAL_NAMES, MODEL)
"""The artifacts of a run that lie in its directory itself; those of members lie in `members`."""
FILES = (METRICS, RESULTS, SCORES, REPORT, ROBUSTNESS, ROBUSTNESS_CURVES)
"""The files of a run that are no artifacts."""
LEFT = {*ARTIFACTS, *FILES, MEMBERS, WEIGHTS, CHECKPOINTS, TENSORBOARD, LOGS}
"""What a run leaves in its directory, beside its configuration and its lock."""

COLUMNS, ROWS = "columns.safetensors", "rows.json"
"""In `data`: the tokenised splits; and which rows of the corpus train and selection are."""
AUGMENTED_COLUMNS = "copies.safetensors"
"""In `augmented`: the tokenised copies."""


class Part(NamedTuple):
    """A member, one of its folds, or a round of either; numbers start from 0.

    Attributes:
        member: number of the member.
        fold: number of the fold; None for the member itself.
        round: number of a round before the last; None for the whole.
    """

    member: int
    fold: int | None = None
    round: int | None = None


def member_name(member: int, fold: int | None = None, round: int | None = None) -> str:
    """What people read, and what events have as their `stage` (without a round).

    >>> member_name(0), member_name(3, fold=1), member_name(3, round=0)
    ('member 000', 'member 003 fold 1', 'member 003 round 0')
    """
    return " ".join(["member", *_words(member, fold, round)])


def member_directory(member: int, fold: int | None = None, round: int | None = None) -> str:
    """Name of the directory in `members`, and in `checkpoints` (without a round).

    >>> member_directory(3, fold=1, round=0)
    '003-fold-1-round-0'
    """
    return "-".join(_words(member, fold, round))


def weights_file(member: int, fold: int | None = None, round: int | None = None) -> str:
    """Name of the file in `weights`.

    >>> weights_file(3, round=0)
    '003-round-0.npy'
    """
    return f"{member_directory(member, fold, round)}.npy"


def parse_name(text: str) -> Part | None:
    """The part that `member_name` names so; None if there is none.

    >>> parse_name("member 003 fold 1")
    Part(member=3, fold=1, round=None)
    """
    head, _, words = text.partition(" ")
    return _parse(words, " ") if head == "member" else None


def parse_directory(text: str) -> Part | None:
    """The part that `member_directory` or `weights_file` names so; None if there is none.

    >>> parse_directory("003-fold-1-round-0")
    Part(member=3, fold=1, round=0)
    >>> parse_directory("teacher") is None
    True
    """
    return _parse(text.removesuffix(".npy"), "-")


def is_member(name: str) -> bool:
    """Whether a step or an event of this name is of a member or a fold, not of a shared stage."""
    return parse_name(name) is not None


@dataclass(frozen=True)
class Layout:
    """Where each thing is in a run directory.

    Attributes:
        directory: the run directory.
    """

    directory: Location

    @property
    def config(self) -> Location:
        """The configuration."""
        return self.directory / CONFIG

    @property
    def data(self) -> Location:
        """The tokenised examples, an artifact."""
        return self.directory / DATA

    @property
    def augmented(self) -> Location:
        """Copies of training examples with some words replaced, an artifact."""
        return self.directory / AUGMENTED

    @property
    def encoder(self) -> Location:
        """The encoder that the run starts from, an artifact."""
        return self.directory / ENCODER

    @property
    def members(self) -> Location:
        """Directory of the members, their rounds and folds."""
        return self.directory / MEMBERS

    @property
    def weights(self) -> Location:
        """Directory of the sample weights."""
        return self.directory / WEIGHTS

    @property
    def checkpoints(self) -> Location:
        """Directory of the checkpoints of what is in training."""
        return self.directory / CHECKPOINTS

    @property
    def model(self) -> Location:
        """The packed model, an artifact."""
        return self.directory / MODEL

    @property
    def metrics(self) -> Location:
        """The events."""
        return self.directory / METRICS

    @property
    def logs(self) -> Location:
        """Directory of what the processes print."""
        return self.directory / LOGS

    @property
    def results(self) -> Location:
        """The figures of the finished run."""
        return self.directory / RESULTS

    @property
    def scores(self) -> Location:
        """The picture of the scores."""
        return self.directory / SCORES

    @property
    def report(self) -> Location:
        """The HTML page."""
        return self.directory / REPORT

    @property
    def robustness(self) -> Location:
        """The figures under perturbations."""
        return self.directory / ROBUSTNESS

    @property
    def robustness_curves(self) -> Location:
        """The picture of them."""
        return self.directory / ROBUSTNESS_CURVES

    @property
    def lock(self) -> Location:
        """The file that the driver locks."""
        return self.directory / LOCK

    def stage(self, name: str) -> Location:
        """A shared stage, an artifact."""
        return self.directory / name

    def member(self, member: int, fold: int | None = None, round: int | None = None) -> Location:
        """A member, a fold of it or an earlier round, an artifact."""
        return self.members / member_directory(member, fold, round)

    def weights_of(
        self, member: int, fold: int | None = None, round: int | None = None
    ) -> Location:
        """The sample weights that it trains with, a NumPy file."""
        return self.weights / weights_file(member, fold, round)

    def artifact(self, name: str) -> Location:
        """Where a step of this name leaves its artifact.

        Args:
            name: of a shared stage or the packed model, or as `member_name` gives it.
        """
        part = parse_name(name)
        return self.directory / name if part is None else self.member(*part)


def _words(member: int, fold: int | None, round: int | None) -> list[str]:
    words = [f"{member:03d}"]
    for name, number in (("fold", fold), ("round", round)):
        if number is not None:
            words += [name, str(number)]
    return words


def _parse(text: str, separator: str) -> Part | None:
    parts = (rf"(?:{separator}{name}{separator}(\d+))?" for name in ("fold", "round"))
    found = re.fullmatch(r"(\d{3,})" + "".join(parts), text, re.ASCII)
    if found is None:
        return None
    member, fold, round = (None if number is None else int(number) for number in found.groups())
    part = Part(member or 0, fold, round)
    return part if separator.join(_words(*part)) == text else None
