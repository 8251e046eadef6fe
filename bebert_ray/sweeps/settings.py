"""What a sweep is asked to do: a run, the space around it, and how to search that."""

from __future__ import annotations

import os
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from bebert_ray.config import Config, to_dict
from bebert_ray.config.check import RUN, Entry, Schema, build, refuse
from bebert_ray.config.load import Overrides, flatten, read_entries
from bebert_ray.config.schema import Count, TrainingConfig
from bebert_ray.storage import Location
from bebert_ray.sweeps.space import Point, Space, corners, own_point, read_space, settings_at

if TYPE_CHECKING:
    from bebert_ray.pipeline.prepare import Prepared

_CHECKS = ConfigDict(extra="forbid", allow_inf_nan=False)
_SPACE = "sweep.space."


@dataclass(frozen=True, config=_CHECKS)
class SweepConfig:
    """How the space below sweep.space is searched."""

    trials: Count = Field(default=12, description="ensembles to train, the first as configured")
    objective: Literal["score", "score-and-bits"] = Field(
        default="score",
        description="what is optimised: the held-out score, or that and the size in bits",
    )
    early_stopping: bool = Field(
        default=True,
        strict=True,
        description="stop trials that fall behind after a member or a round (ASHA)",
    )
    size: Count | None = Field(
        default=None,
        description="most members of the ensemble that is selected from all trials; null: "
        "ensemble.members",
    )
    mlflow: bool = Field(
        default=False, strict=True, description="log to MLflow also (bebert_ray[mlflow])"
    )
    wandb: bool = Field(
        default=False, strict=True, description="log to Weights & Biases also (bebert_ray[wandb])"
    )


@dataclass(frozen=True, config=_CHECKS)
class _Root:
    sweep: SweepConfig = Field(
        default_factory=SweepConfig, description="how the space below sweep.space is searched"
    )


SWEEP = Schema.of(_Root)


@plain_dataclass(frozen=True)
class Sweep:
    """A sweep whose settings have been checked.

    Attributes:
        settings: how to search.
        space: what to search.
        config: the run that trials vary; its output is the directory of the sweep.
        given: the settings of that run that are not defaults, by dotted key.
    """

    settings: SweepConfig
    space: Space
    config: Config
    given: dict[str, Entry]

    @property
    def directory(self) -> Location:
        """Where all of it is kept."""
        return Location.of(Path(self.config.output)).rooted()

    @property
    def size(self) -> int:
        """The most members that the selected ensemble may have."""
        return self.settings.size or self.config.ensemble.members

    @property
    def first_point(self) -> Point:
        """Where the configuration itself lies, as far as it lies in the space."""
        config = dict(flatten(to_dict(self.config)))
        for dimension in self.space:
            key = dimension.key
            shared = f"training.{key.removeprefix('member.')}"
            if shared in config and config[key] is None and not dimension.holds(None):
                config[key] = config[shared]  # null: as in training
        return own_point(self.space, config)

    def with_arithmetic(self, found: TrainingConfig) -> Sweep:
        """The sweep with `auto` resolved in `training`, for all trials alike."""
        chosen: dict[str, Any] = {"precision": found.precision, "compile": found.compile}
        training = replace(self.config.training, **chosen)
        given = self.given | {
            f"training.{key}": Entry(value, "this machine") for key, value in chosen.items()
        }
        return replace(self, config=replace(self.config, training=training), given=given)

    def shared(self) -> Config:
        """The run that makes what all trials start from."""
        return replace(self.config, output=f"{self.config.output}/shared")

    def trial(self, number: int, point: Point) -> Config:
        """The run of a trial.

        Raises:
            UserError: its settings do not fit together.
        """
        problems: list[str] = []
        config: Config = build(RUN, self.given | settings_at(self.space, point), problems)
        refuse(problems)
        return replace(config, output=str(trial_directory(self.directory, number)), fresh=False)

    def prepared(self, shared: Prepared, number: int, point: Point) -> Prepared:
        """The run of a trial, whose input has been checked: it is that of the shared stages."""
        directory = trial_directory(self.directory, number).rooted()
        # The best members alone are packed, in the end.
        return replace(shared, config=self.trial(number, point), directory=directory, is_trial=True)

    def to_dict(self) -> dict[str, Any]:
        """All settings, in JSON's types."""
        return {
            "run": to_dict(self.config),
            "sweep": SWEEP.adapter.dump_python(_Root(self.settings), mode="json")["sweep"],
            "space": {dimension.key: dimension.given for dimension in self.space},
        }


def trial_directory(sweep: Location, number: int) -> Location:
    """The run directory of a trial."""
    return sweep / "trials" / f"{number:03d}"


def load_sweep(path: str | Path | None, overrides: Overrides = ()) -> Sweep:
    """Builds a sweep from the configuration of a run that has a section `sweep` besides.

    Args:
        path: as in `load_config`.
        overrides: as in `load_config`.

    Raises:
        UserError: something in it is not possible; one line for each, all at once.
    """
    problems: list[str] = []
    run, search, ranges = {}, {}, {}
    for key, entry in read_entries(path, overrides, problems).items():
        if key.startswith(_SPACE):
            ranges[key.removeprefix(_SPACE)] = entry
        elif key == "sweep" or key.startswith("sweep."):
            search[key] = entry
        else:
            run[key] = entry
    root: _Root | None = build(SWEEP, search, problems)
    config: Config | None = build(RUN, run, problems)
    space = read_space(ranges, problems)
    if not space and not problems:
        problems.append(
            "sweep.space: is empty; give what to search, such as "
            "sweep.space.member.learning_rate={loguniform: [5e-5, 1e-3]}"
        )
    refuse(problems)
    assert root is not None and config is not None
    if "output" not in run:
        config = replace(config, output=f"runs/sweep_{config.task}")
    sweep = Sweep(root.sweep, space, config, run)
    refuse(_conflicts(sweep))
    return sweep


def _conflicts(sweep: Sweep) -> list[str]:
    """What does not fit together, or is not there."""
    problems: list[str] = []
    if "://" in sweep.config.output:
        problems.append(
            f"output: trials link to what they share, and {sweep.config.output} has no links; give "
            "a directory, on a disk that all machines see"
        )
    if sweep.config.selection == "dev":
        problems.append(
            "selection: a sweep chooses, and what it chooses on says nothing of the choice; leave "
            "it at holdout"
        )
    for name in ("mlflow", "wandb"):
        if getattr(sweep.settings, name) and find_spec(name) is None:
            problems.append(f"sweep.{name}: is not installed; pip install 'bebert_ray[{name}]'")
    if sweep.settings.wandb and not {"WANDB_API_KEY", "WANDB_MODE"} & os.environ.keys():
        problems.append("sweep.wandb: set WANDB_API_KEY, or WANDB_MODE=offline")
    clashes: list[str] = []
    for point in corners(sweep.space):
        build(RUN, sweep.given | settings_at(sweep.space, point), clashes)
    problems += (f"in some trials, {clash}" for clash in dict.fromkeys(clashes))
    return problems
