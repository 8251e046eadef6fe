"""Settings that are possible each, but not together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from bebert_ray.config.bits import FULL_WIDTH, Bits
from bebert_ray.data.tasks import CUSTOM

if TYPE_CHECKING:
    from bebert_ray.config.schema import Config


class Conflict(NamedTuple):
    """Settings that are fine alone but not together."""

    key: str  # the one to change first
    others: tuple[str, ...]  # what it clashes with
    message: str


def find_conflicts(config: Config) -> Iterator[Conflict]:
    """What in a configuration does not fit together, in the order of its keys."""
    data, resources = config.data, config.resources
    if config.task == CUSTOM:
        for name in ("path", "text_columns", "label_column"):
            if not getattr(data, name):
                yield Conflict(f"data.{name}", ("task",), "the custom task needs it; none is given")
    else:
        for name in ("text_columns", "label_column", "kind", "dev_path"):
            if getattr(data, name) != getattr(type(data)(), name):
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
            "data.text_columns",
            ("data.label_column",),
            "names the same column more than once, or that of the labels",
        )
    augment, members = data.augment, config.ensemble.members
    if augment.per_member and augment.copies < members:
        yield Conflict(
            "data.augment.per_member",
            ("data.augment.copies", "ensemble.members"),
            f"{augment.copies} copies of an example are too few for {members} members to have some "
            "of their own; set data.augment.copies to at least ensemble.members",
        )
    if augment.per_member and config.ensemble.strategy == "A":
        yield Conflict(
            "data.augment.per_member",
            ("ensemble.strategy",),
            "members of strategy A learn from labels, which a copy need not have, and train on no "
            "copies; leave it out, or set ensemble.strategy to B or C",
        )
    if 0 < augment.copies < config.ensemble.trunks:
        yield Conflict(
            "data.augment.copies",
            ("ensemble.trunks",),
            f"{augment.copies} copies of an example are too few for {config.ensemble.trunks} "
            "shared checkpoints to have some of their own; give at least as many",
        )
    if config.layers is not None and config.teacher.epochs == 0:
        yield Conflict(
            "layers",
            ("teacher.epochs",),
            "a finished teacher (teacher.epochs=0) needs all its layers; leave it out, or train "
            "the teacher",
        )
    for name in ("patience", "max_steps"):
        limit = getattr(config.training, name)
        if limit is not None and config.ensemble.schedule == "pipelined":
            yield Conflict(
                f"training.{name}",
                ("ensemble.schedule",),
                "the first rounds may use it up, and the later ones would train nothing; leave it "
                "out, or set ensemble.schedule=sequential",
            )
    yield from _schedule_conflicts(config)
    yield from _ensemble_conflicts(config)
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


def _ensemble_conflicts(config: Config) -> Iterator[Conflict]:
    ensemble = config.ensemble
    if ensemble.trunks > ensemble.members:
        yield Conflict(
            "ensemble.trunks",
            ("ensemble.members",),
            f"{ensemble.trunks} shared checkpoints are more than the {ensemble.members} members "
            "that start from them; give at most as many",
        )
    if "wider" in ensemble.baselines and config.width >= 1:
        yield Conflict(
            "ensemble.baselines",
            ("width", "bits"),
            "no model is wider than the teacher, whose width the members have (width=1); leave "
            "wider out",
        )
    if len(set(ensemble.baselines)) < len(ensemble.baselines):
        yield Conflict("ensemble.baselines", (), "names the same baseline more than once")


def _schedule_conflicts(config: Config) -> Iterator[Conflict]:
    ensemble, epochs = config.ensemble, config.member.epochs
    schedule, among = ensemble.schedule, ("ensemble.method",)
    if ensemble.method == "boosting" and schedule == "parallel":
        yield Conflict(
            "ensemble.schedule",
            among,
            "boosting cannot be parallel, each member needs the errors of those before it; "
            "set ensemble.schedule=pipelined, or ensemble.method=bagging or uniform",
        )
    if ensemble.method != "boosting" and schedule == "pipelined":
        yield Conflict(
            "ensemble.schedule",
            among,
            f"{ensemble.method} members need nothing of each other; set ensemble.schedule=parallel",
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
