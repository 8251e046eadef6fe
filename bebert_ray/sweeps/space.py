"""The search space of a sweep: which keys of a run are searched, and over which values.

In YAML, below `sweep.space`, the dotted key of a run, and what it is drawn from:

    member.learning_rate: {loguniform: [5e-5, 1e-3]}    numbers, evenly in their logarithm
    ensemble.learning_rate: {uniform: [0.1, 1]}         numbers, evenly
    ensemble.floor: {quniform: [0, 0.5, 0.1]}           every 0.1
    member.epochs: {randint: [1, 3]}                    whole numbers
    ensemble.strategy: {choice: [A, B, C]}              one of these

Both ends belong to a range. Settings that only fit together are chosen together, below the section
that they are in:

    ensemble: {choice: [{method: bagging}, {method: boosting, schedule: pipelined}]}

What the trials have in common, the data and the stages before the members, cannot be searched.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from bebert_ray.config.check import ARGUMENT, COMMAND_LINE, RUN, Entry, did_you_mean

SEARCHED = ("ensemble", "member")
"""The sections of a run that its shared stages do not depend on, but for `FIXED`."""
FIXED = {
    "ensemble.trunks": "trials share the checkpoints that members start from",
    "ensemble.baselines": "trials train members alone; set it in the best configuration",
    "ensemble.distill": "trials train members alone; set it in the best configuration",
}
"""Their keys that cannot be searched, and why."""
COMBINATIONS = 512  # of a space's ends, that are tried before the start

Point = dict[str, Any]
"""One value for each dimension, by key."""


@dataclass(frozen=True)
class Dimension:
    """A key that is searched.

    Attributes:
        key: of the run, or one of its sections.
        given: the range as people wrote it.
        where: the file or argument that it is written in, for messages.
        distribution: the same for optuna. Choices of a section are labels.
        settings: what each label stands for, by dotted key; empty unless `key` is a section.
    """

    key: str
    given: dict[str, Any]
    where: str
    distribution: BaseDistribution
    settings: dict[str, dict[str, Any]]

    @property
    def keys(self) -> set[str]:
        """The keys of a run that a value sets."""
        return set().union(*self.settings.values()) if self.settings else {self.key}

    @property
    def ends(self) -> list[Any]:
        """Both ends of a range, or all choices."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return [self.distribution.low, self.distribution.high]

    def set_by(self, value: Any) -> dict[str, Any]:
        """The settings that a value amounts to."""
        return self.settings[value] if self.settings else {self.key: value}

    def suggest(self, trial: Trial) -> Any:
        """Have optuna draw a value."""
        match self.distribution:
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.key, low, high, step=step, log=log)
            case IntDistribution(low=low, high=high):
                return trial.suggest_int(self.key, low, high)
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.key, choices)
        raise TypeError(f"{self.distribution} is no distribution of ours")

    def holds(self, value: Any) -> bool:
        """Whether a value can be drawn."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return value in choices
            case FloatDistribution(low=low, high=high, step=step):
                if not _is_number(value) or not low <= value <= high:
                    return False
                return step is None or _is_whole((value - low) / step)
            case IntDistribution(low=low, high=high):
                return isinstance(value, int) and low <= value <= high
        return False


Space = tuple[Dimension, ...]


def read_space(entries: Mapping[str, Entry], problems: list[str]) -> Space:
    """The space that is given below `sweep.space`.

    Args:
        entries: by dotted key and kind of range, such as `member.epochs.randint`.
        problems: what is wrong already; what is wrong here joins them.
    """
    dimensions: dict[str, Dimension] = {}
    for path, entry in entries.items():
        key, _, kind = path.rpartition(".")
        if kind not in _RANGES:
            problems.append(
                f"sweep.space.{path}: must be a range, such as {{uniform: [0.1, 1]}}; there are "
                f"{', '.join(_RANGES)} ({entry.where})"
            )
            continue
        if reason := _cannot_be_searched(key):
            problems.append(f"sweep.space.{key}: {reason} ({entry.where})")
            continue
        before = dimensions[key].where if key in dimensions else ""
        wins = entry.where == COMMAND_LINE or (entry.where == ARGUMENT != before)
        if before and not wins:
            problems.append(f"sweep.space.{key}: is given twice ({entry.where})")
        try:
            dimensions[key] = _dimension(key, kind, entry)
        except ValueError as error:
            problems.append(f"sweep.space.{path} = {entry.value}: {error} ({entry.where})")
    space = tuple(dimensions.values())
    for one, other in itertools.combinations(space, 2):
        for key in sorted(one.keys & other.keys):
            problems.append(f"sweep.space.{other.key}: {key} is searched twice ({other.where})")
    return space


def settings_at(space: Space, point: Point) -> dict[str, Entry]:
    """What a point sets, by dotted key of the run."""
    return {
        key: Entry(value, dimension.where)
        for dimension in space
        for key, value in dimension.set_by(point[dimension.key]).items()
    }


def own_point(space: Space, config: Mapping[str, Any]) -> Point:
    """Where a configuration lies in the space: its values, for each dimension that holds them.

    Args:
        space: the space.
        config: every setting by dotted key.
    """
    point = {}
    for dimension in space:
        if dimension.settings:
            for label, settings in dimension.settings.items():
                if settings.items() <= config.items():
                    point[dimension.key] = label
                    break
        elif dimension.holds(config[dimension.key]):
            point[dimension.key] = config[dimension.key]
    return point


def corners(space: Space) -> Iterable[Point]:
    """The combinations of all ranges' ends; if there are too many, seeded draws of them."""
    ends = {dimension.key: dimension.ends for dimension in space}
    if math.prod(map(len, ends.values())) <= COMBINATIONS:
        for values in itertools.product(*ends.values()):
            yield dict(zip(ends, values, strict=True))
        return
    rng = random.Random(0)
    for _ in range(COMBINATIONS):
        yield {key: rng.choice(values) for key, values in ends.items()}


def _cannot_be_searched(key: str) -> str:
    section = key.partition(".")[0]
    if key in FIXED:
        return f"cannot be searched: {FIXED[key]}"
    if section in SEARCHED and key in {section, *RUN.leaves}:
        return ""
    if key not in RUN.leaves and key not in RUN.sections:
        return f"unknown key{did_you_mean(RUN, key)}"
    twin = f"member.{key.rpartition('.')[2]}"
    instead = f"; search {twin}" if twin in RUN.leaves else ""
    return (
        "cannot be searched: trials share the data and the stages before the members, and so "
        f"differ in {' and '.join(SEARCHED)} alone{instead}"
    )


def _dimension(key: str, kind: str, entry: Entry) -> Dimension:
    """Raises ValueError, which says why there is no such dimension."""
    value, settings = entry.value, {}
    if key in RUN.sections:
        settings = _settings(key, kind, value)
        value = list(settings)
    return Dimension(key, {kind: entry.value}, entry.where, _RANGES[kind](value), settings)


def _settings(section: str, kind: str, choices: Any) -> dict[str, dict[str, Any]]:
    """What is to be set together, by label."""
    one = isinstance(choices, list) and all(isinstance(each, dict) and each for each in choices)
    if kind != "choice" or not one:
        raise ValueError(
            f"{section} is a section; give choice, and a list of settings in it, such as "
            "[{members: 2}, {members: 4}]"
        )
    labels = {}
    for choice in choices:
        settings = {f"{section}.{name}": value for name, value in choice.items()}
        for key in settings:
            if key not in RUN.leaves:
                raise ValueError(f"{key} is unknown{did_you_mean(RUN, key)}")
            if reason := _cannot_be_searched(key):
                raise ValueError(f"{key} {reason}")
        labels[", ".join(f"{name}={value}" for name, value in choice.items())] = settings
    if len(labels) < len(choices):
        raise ValueError("a choice is there twice")
    return labels


def _uniform(value: Any) -> BaseDistribution:
    low, high = _numbers(value, "[low, high]")
    return FloatDistribution(_below(low, high), high)


def _loguniform(value: Any) -> BaseDistribution:
    low, high = _numbers(value, "[low, high]")
    if low <= 0:
        raise ValueError("must begin above 0")
    return FloatDistribution(_below(low, high), high, log=True)


def _quniform(value: Any) -> BaseDistribution:
    low, high, step = _numbers(value, "[low, high, step]")
    if step <= 0:
        raise ValueError("needs a step above 0")
    if not _is_whole((high - _below(low, high)) / step):
        raise ValueError(f"steps of {step} from {low} do not lead to {high}")
    return FloatDistribution(low, high, step=step)


def _randint(value: Any) -> BaseDistribution:
    low, high = _numbers(value, "[low, high]")
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError("must be whole numbers")
    return IntDistribution(int(_below(low, high)), high)


def _choice(value: Any) -> BaseDistribution:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list, of one value or more")
    if any(not isinstance(each, str | int | float | bool | None) for each in value):
        raise ValueError("must be a list of plain values")
    if any(one == other for one, other in itertools.combinations(value, 2)):
        raise ValueError("a choice is there twice")
    return CategoricalDistribution(value)


_RANGES = {
    "uniform": _uniform,
    "loguniform": _loguniform,
    "quniform": _quniform,
    "randint": _randint,
    "choice": _choice,
}


def _numbers(value: Any, form: str) -> list[Any]:
    count = form.count(",") + 1
    if not isinstance(value, list) or len(value) != count or not all(map(_is_number, value)):
        raise ValueError(f"must be {form}, in numbers")
    return value


def _below(low: float, high: float) -> float:
    if low >= high:
        raise ValueError("is empty: low must be below high")
    return low


def _is_whole(steps: float) -> bool:
    return math.isclose(steps, round(steps), rel_tol=1e-9, abs_tol=1e-9)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
