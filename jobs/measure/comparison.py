"""Several finished runs side by side, from their `results.json` alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bebert_ray.config import Config, flatten, to_dict
from bebert_ray.config.recipes import NO_FIGURE
from bebert_ray.data.metrics import evaluate
from bebert_ray.data.tasks import Task
from bebert_ray.errors import UserError
from bebert_ray.pipeline.results import MEAN_MEMBER, TEACHER, Results
from bebert_ray.reporting.tables import print_cells

RESAMPLES = 2000
INTERVAL = (0.025, 0.975)

# Settings that change no figure, or that tell runs of one configuration apart.
_IGNORED = (
    *("seed", "output", "fresh", "resources.", "export."),
    *(f"training.{key}" for key in NO_FIGURE),
)

# What runs of 0.1.0 did, which had no such keys.
_BEFORE = {
    "ternary.joint": False,
    "binary.joint": False,
    "member.joint": False,
    "member.margins": "split",
}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ in the seed.

    Attributes:
        name: the settings that tell the groups apart, such as `bits=1-1-4`.
        runs: their results, by seed.
    """

    name: str
    runs: list[Results]


@dataclass(frozen=True)
class Gain:
    """How much better the ensemble is than something else.

    Attributes:
        over: what it is compared with: its `mean member`, a model of the run, or the mean member of
            the first group.
        mean: difference of the primary metric, mean over seeds.
        low: lower end of the 95 % interval of the paired bootstrap.
        high: upper end of it.
        examples: in the reported split.
        seeds: number of runs.
        resamples: of the bootstrap.
        p: two-sided, of no difference: twice the smaller share of resamples on one side of 0, the
            observed difference counted as one more.
    """

    over: str
    mean: float
    low: float
    high: float
    examples: int
    seeds: int
    resamples: int
    p: float


def check_comparable(every: Sequence[Results]) -> None:
    """Refuse runs whose scores do not compare.

    Raises:
        UserError: two runs differ in the task, its metrics or classes, the reported splits, the
            data of choices, or the labels of the reported split; or a run is given twice.
    """
    first = every[0]
    seen: dict[str, Results] = {}
    for run in every:
        for what in ("task", "metrics", "classes", "dev", "selection"):
            ours, theirs = getattr(first, what), getattr(run, what)
            if ours != theirs:
                raise UserError(
                    f"the runs do not compare: {what} is {_short(ours)} in {first.run}, "
                    f"{_short(theirs)} in {run.run}; give runs of one task and its splits"
                )
        if _labels(run) != _labels(first):
            raise UserError(
                f"the runs do not compare: the labels of {first.dev[0]} in {run.run} are not those "
                f"in {first.run} ({len(run.predictions)} and {len(first.predictions)} examples); "
                "give runs that report the same data"
            )
        key = json.dumps([run.seed, _settings(run)], sort_keys=True)
        if key in seen:
            raise UserError(
                f"{seen[key].run} and {run.run} have the same configuration and seed: give one"
            )
        seen[key] = run


def group_runs(every: Sequence[Results]) -> list[Group]:
    """Put runs together that differ in the seed alone, in the order given.

    Raises:
        UserError: see `check_comparable`.
    """
    check_comparable(every)
    runs: dict[str, list[Results]] = {}
    for each in every:
        runs.setdefault(json.dumps(_settings(each), sort_keys=True), []).append(each)
    settings = [_settings(group[0]) for group in runs.values()]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if any(s.get(key) != settings[0].get(key) for s in settings)]
    names = [
        " ".join(f"{key}={_short(each[key])}" for key in differing if key in each)
        for each in settings
    ]
    return [
        Group(name or settings[0].get("task", "all"), sorted(group, key=lambda run: run.seed))
        for name, group in zip(names, runs.values(), strict=True)
    ]


def figures(run: Results, sizes: Sequence[int]) -> dict[str, float]:
    """The primary metric of each model of a run on the main reported split, and sizes.

    Args:
        run: the run.
        sizes: of ensembles; one that has fewer members counts as it is.

    Returns:
        By name: the stages, `start` (the model that members start from), the rivals, `mean
        member`, `ensemble of k`, `MB` (of all members, 10^6 bytes), `smaller` (than the teacher),
        `seconds`.
    """
    return {
        **{stage.name: run.headline(stage.scores) for stage in run.stages.values()},
        "start": run.start,
        **{name: run.headline(rival.scores) for name, rival in run.rivals.items()},
        MEAN_MEMBER: run.mean_member,
        **{
            f"ensemble of {size}": run.headline(run.staged[min(size, len(run.staged)) - 1])
            for size in sizes
        },
        "MB": run.bits / 8e6,
        "smaller": run.stages[TEACHER].bits / run.bits,
        "seconds": run.seconds,
    }


def ensemble_sizes(groups: Sequence[Group]) -> list[int]:
    """1, 2, 4, ... and the largest number of members."""
    most = max(len(run.members) for group in groups for run in group.runs)
    return sorted({*(2**k for k in range(most.bit_length())), most})


def mean_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row for each group: means over its seeds of what `figures` gives."""
    sizes = ensemble_sizes(groups)
    rows = []
    for group in groups:
        every = [figures(run, sizes) for run in group.runs]
        means = {name: mean(each[name] for each in every) for name in every[0]}
        rows.append({"runs": group.name, "seeds": len(every), **means})
    return rows


def seed_rows(group: Group, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each run of a group; see `figures`."""
    return [{"runs": group.name, "seed": run.seed, **figures(run, sizes)} for run in group.runs]


def gains(
    group: Group, first: Group | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> list[Gain]:
    """The ensemble's score less that of its mean member, and less those of its other models.

    Each resample draws seeds and examples with replacement, the same examples for all models of
    every seed; the interval holds 95 % of the differences (percentiles).
    Source: Koehn, Statistical significance tests for machine translation evaluation, 2004.

    Args:
        group: the runs.
        first: another group of the same seeds, whose mean member the ensemble is compared with too.
        resamples: how many.
        seed: of the draws.

    Returns:
        The differences; none if a run has no predictions of its members.
    """
    if not all(run.member_predictions for run in group.runs):
        return []
    against = {MEAN_MEMBER: [run.member_predictions for run in group.runs]}
    for name in group.runs[0].model_predictions:
        if all(name in run.model_predictions for run in group.runs):
            against[name] = [[run.model_predictions[name]] for run in group.runs]
    if first is not None and first is not group:
        seeds = [run.seed for run in group.runs]
        if [run.seed for run in first.runs] == seeds and all(
            run.member_predictions for run in first.runs
        ):
            name = f"{MEAN_MEMBER} of {first.name}"
            against[name] = [run.member_predictions for run in first.runs]
    return [
        _gain(
            name,
            [_Difference(run, of) for run, of in zip(group.runs, others, strict=True)],
            resamples,
            seed,
        )
        for name, others in against.items()
    ]


def _gain(over: str, differences: list[_Difference], resamples: int, seed: int) -> Gain:
    rng = np.random.default_rng(seed)
    examples = differences[0].examples
    values = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(len(differences), size=len(differences))
        rows = rng.integers(examples, size=examples)
        values[i] = mean(differences[k](rows) for k in chosen)
    low, high = np.quantile(values, INTERVAL)
    everything = np.arange(examples)
    return Gain(
        over=over,
        mean=mean(difference(everything) for difference in differences),
        low=float(low),
        high=float(high),
        examples=examples,
        seeds=len(differences),
        resamples=resamples,
        p=min(1.0, 2 * (1 + min((values <= 0).sum(), (values >= 0).sum())) / (resamples + 1)),
    )


class _Difference:
    """The ensemble's score less the mean one of other models, on some rows of the split."""

    def __init__(self, run: Results, others: Sequence[Sequence[float]]):
        self._task = Task(run.task, ("text",), run.classes, (run.metric,))
        self._metric = run.metric
        self._labels = np.array([label for label, _ in run.predictions])
        self.examples = len(self._labels)
        ensemble = [prediction for _, prediction in run.predictions]
        self._predictions = np.array([ensemble, *others])
        self._hits: NDArray[np.float64] | None = None
        if self._metric == "accuracy":  # a mean over examples, and so is the difference
            hits = (self._predictions == self._labels).astype(np.float64)
            self._hits = hits[0] - hits[1:].mean(axis=0)

    def __call__(self, rows: NDArray[np.integer]) -> float:
        if self._hits is not None:
            return float(self._hits[rows].mean())
        ensemble, *members = [self._score(each[rows], rows) for each in self._predictions]
        return ensemble - mean(members)

    def _score(self, predictions: NDArray[Any], rows: NDArray[np.integer]) -> float:
        scores = predictions[:, None]
        if not self._task.is_regression:
            scores = np.eye(self._task.num_labels)[predictions.astype(int)]
        return evaluate(self._task, scores, self._labels[rows])[self._metric]


def summary(groups: Sequence[Group], resamples: int = RESAMPLES) -> dict[str, Any]:
    """All figures as JSON, by group."""
    first, sizes = groups[0].runs[0], ensemble_sizes(groups)
    found = [gains(group, groups[0], resamples) for group in groups]
    return {
        "task": first.task,
        "metric": first.metric,
        "split": first.dev[0],
        "groups": [
            {
                "name": group.name,
                "runs": [run.run for run in group.runs],
                "seeds": [run.seed for run in group.runs],
                "mean": _numbers(row),
                "by_seed": [_numbers(each) for each in seed_rows(group, sizes)],
                "gains": [asdict(gain) for gain in each],
            }
            for group, row, each in zip(groups, mean_rows(groups), found, strict=True)
        ],
    }


def print_comparison(groups: Sequence[Group], console: Console, resamples: int) -> None:
    """Print means over seeds, each seed, and what the ensembles gain."""
    first = groups[0].runs[0]
    what = f"{first.task}, {first.headline_name}"
    print_columns(mean_rows(groups), console, f"{what}: means over seeds")
    if any(len(group.runs) > 1 for group in groups):
        sizes = ensemble_sizes(groups)
        rows = [row for group in groups for row in seed_rows(group, sizes)]
        print_columns(rows, console, f"{what}: each seed")
    for group in groups:
        found = gains(group, groups[0], resamples)
        if not found:
            console.print(f"{group.name}: no predictions of the members, no interval")
            continue
        print_rows(
            [
                {
                    "ensemble less": gain.over,
                    "difference": f"{gain.mean:+.4f}",
                    "95 % interval": f"{gain.low:+.4f} to {gain.high:+.4f}",
                    "p": f"{gain.p:.3f}",
                }
                for gain in found
            ],
            console,
            f"{group.name}: paired bootstrap over {found[0].examples} examples and "
            f"{found[0].seeds} seed{'s' if found[0].seeds > 1 else ''}",
        )


_FORMATS = {
    "MB": ".2f",
    "smaller": ".1f",
    "seconds": ".0f",
    "seeds": "d",
    "seed": "d",
}


def print_rows(rows: Sequence[dict[str, Any]], console: Console, title: str | None = None) -> None:
    """Print dicts as the rows of a table; the keys of all are its columns, text is left-aligned."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    cells = [[_cell(head, row.get(head)) for head in heads] for row in rows]
    print_cells((heads, cells), console, title)


COLUMNS = 8
"""Runs in a table whose rows are figures; more would not fit into the lines of a log."""


def print_columns(rows: Sequence[dict[str, Any]], console: Console, title: str) -> None:
    """Print dicts as the columns of tables, each headed by its first value."""
    for start in range(0, len(rows), COLUMNS):
        part = rows[start : start + COLUMNS]
        first, *names = dict.fromkeys(name for row in part for name in row)
        table = Table(title=title, title_justify="left")
        table.add_column(first, no_wrap=True)
        for row in part:
            table.add_column(row[first], justify="right", overflow="fold")
        for name in names:
            table.add_row(name, *(_cell(name, row.get(name)) for row in part))
        console.print(table)


def _settings(run: Results) -> Settings:
    """The configuration by dotted key, without what tells no two configurations apart.

    What an earlier version did not know has its default, unless that version did otherwise.
    """
    known = dict(flatten(to_dict(Config(task=run.task)))) | _BEFORE | dict(flatten(run.config))
    return {key: value for key, value in known.items() if not key.startswith(_IGNORED)}


def _labels(run: Results) -> list[float]:
    return [label for label, _ in run.predictions]


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("runs", "seeds")}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _cell(head: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:{_FORMATS.get(head, '.4f')}}"
