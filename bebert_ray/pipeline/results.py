"""The figures of a finished run: as attributes, as rows, as JSON, and read back from it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bebert_ray.config.recipes import TEACHER, TRUNK
from bebert_ray.pipeline.layout import MODEL, RESULTS
from bebert_ray.storage import Location, fingerprint, read
from bebert_ray.storage.records import check_version, parse_json

if TYPE_CHECKING:
    import pandas

VERSION = 1
"""Of the format of `results.json`."""
MEAN_MEMBER = "mean member"
"""What tables call the mean of the members' scores."""

Scores = dict[str, dict[str, float]]
"""Metric values by split, then by metric: fractions, not percent."""


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        name: such as `teacher` or `member 000`.
        scores: all metrics on every split.
        bits: size when packed, in bits, with 32 for each weight that is not binary or ternary.
        seconds: duration of its training.
        alpha: weight of a member in the vote; None for a stage.
        error: the weighted error that alpha follows from; None if it was not measured.
        flipped: of a member, the share of the encoder's binary weights whose sign is not that of
            the shared checkpoint.
    """

    name: str
    scores: Scores
    bits: int
    seconds: float
    alpha: float | None = None
    error: float | None = None
    flipped: float | None = None


@dataclass(frozen=True)
class Packed:
    """The packed model of an ensemble, as measured after it was loaded from its file.

    Attributes:
        remainder: how weights that are not binary are stored, `fp16` or `fp32`.
        bytes: size of the `weights`, `scales` and `floats`, and of the whole `file`.
        scores: all metrics of the ensemble, by split.
        logit_difference: the largest difference between a logit of a packed member and the one that
            its scores and its alpha follow from; 0, unless another machine has packed it.
        cascade: `kept` and `curve`, see `pack.leave_packed`; None if the model has no cascade.
    """

    remainder: str
    bytes: dict[str, int]
    scores: Scores
    logit_difference: float
    cascade: dict[str, Any] | None = None


@dataclass(frozen=True)
class Results:
    """All figures of a run. The properties give the primary metric on the main reported split.

    Attributes:
        run: the run directory.
        task: name of the task.
        metrics: names of its metrics, the primary one first.
        classes: names of its classes; None for regression.
        dev: names of the reported splits, the main one first.
        selection: `holdout` or `dev`: the data that choices were made on.
        seed: of the run.
        stages: the models that the members come from by name, such as teacher, half and ternary.
        members: of the ensemble, in order.
        staged: metrics of the ensemble of the first 1, 2, ... members.
        predictions: label and prediction of the ensemble for every example of the main reported
            split: indices of classes, or scores.
        note: why the ensemble has fewer members than configured, or which model is no better than
            chance; empty if there is nothing to say.
        packed: the packed model; None if none was configured.
        config: the configuration, with all defaults.
        versions: of the software, by package.
        member_predictions: of each member, its prediction for every example of the main reported
            split.
        model_predictions: the same of the stages, of the checkpoints that members start from and of
            the rivals, by name.
        bits_in_common: of each pair of members, the share of the encoder's binary weights with the
            same sign, [M, M].
        diagnostics: how far members differ, see `pipeline.diagnostics.diversity` and, of a
            regression, `diversity_of_scores`.
        baselines: what the ensemble is measured against, see `pipeline.diagnostics.baselines`.
        rivals: models trained to be compared with the ensemble: `longer`, `wider` (see
            `ensemble.baselines`) and `distilled` (see `ensemble.distill`).
    """

    run: str
    task: str
    metrics: tuple[str, ...]
    classes: tuple[str, ...] | None
    dev: tuple[str, ...]
    selection: str
    seed: int
    stages: dict[str, Model]
    members: list[Model]
    staged: list[Scores]
    predictions: list[tuple[float, float]]
    note: str
    packed: Packed | None
    config: dict[str, Any]
    versions: dict[str, str]
    member_predictions: list[list[float]] = field(default_factory=list)
    model_predictions: dict[str, list[float]] = field(default_factory=dict)
    bits_in_common: list[list[float]] = field(default_factory=list)
    diagnostics: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, dict[str, float | None]] = field(default_factory=dict)
    rivals: dict[str, Model] = field(default_factory=dict)

    @property
    def scores(self) -> Scores:
        """All metrics of the whole ensemble."""
        return self.staged[-1]

    @property
    def metric(self) -> str:
        """Name of the primary metric."""
        return self.metrics[0]

    @property
    def headline_name(self) -> str:
        """What tables and pictures call the figures of `headline`, such as `dev accuracy`."""
        return f"{self.dev[0]} {self.metric}".replace("_", " ")

    @property
    def ensemble(self) -> float:
        """Score of the ensemble."""
        return self.headline(self.scores)

    @property
    def teacher(self) -> float:
        """Score of the full-precision teacher."""
        return self.headline(self.stages[TEACHER].scores)

    @property
    def start(self) -> float:
        """Score of the model that the members start from, the last of the stages.

        With several trunks (`ensemble.trunks`) it is their mean.
        """
        names = [name.partition(TRUNK)[0] for name in self.stages]
        last = [s for name, s in zip(names, self.stages.values(), strict=True) if name == names[-1]]
        return sum(self.headline(stage.scores) for stage in last) / len(last)

    @property
    def member_scores(self) -> list[float]:
        """Score of each member."""
        return [self.headline(member.scores) for member in self.members]

    @property
    def mean_member(self) -> float:
        """Mean of the members' scores."""
        return sum(self.member_scores) / len(self.members)

    @property
    def alphas(self) -> list[float]:
        """Weight of each member in the vote."""
        return [member.alpha or 0.0 for member in self.members]

    @property
    def bits(self) -> int:
        """Size of all members together, in bits; see `Model.bits`."""
        return sum(member.bits for member in self.members)

    @property
    def seconds(self) -> float:
        """Sum of the durations of the trainings that the ensemble needs: not of its rivals."""
        return sum(model.seconds for model in (*self.stages.values(), *self.members))

    @property
    def model(self) -> str | None:
        """Path or URI of the packed model, which `load_model` takes; None if there is none."""
        return None if self.packed is None else f"{self.run}/{MODEL}"

    def headline(self, scores: Scores) -> float:
        """The primary metric on the main reported split."""
        return scores[self.dev[0]][self.metrics[0]]

    def table(self) -> list[dict[str, Any]]:
        """Rows of models, ensemble and rivals, in order; the report and the console show these.

        Returns:
            Dicts with the same keys: `model`; each metric on each reported split, such as
            `dev accuracy`; `held-out …` (not with selection: dev) and `train …` of the primary
            metric; `error`, `alpha`, `flipped` (share of binary weights), `MB` (10^6 bytes),
            `smaller` (than the teacher) and `seconds`. None where a model has no such figure.
        """
        teacher = self.stages[TEACHER]
        flips = any(member.flipped is not None for member in self.members)

        def row(model: Model) -> dict[str, Any]:
            shown = [(split, split, metric) for split in self.dev for metric in self.metrics]
            if self.selection == "holdout":
                shown.append(("held-out", "selection", self.metric))
            shown.append(("train", "train", self.metric))
            return {
                "model": model.name,
                **{
                    f"{name} {metric}".replace("_", " "): model.scores[split][metric]
                    for name, split, metric in shown
                },
                "error": model.error,
                "alpha": model.alpha,
                **({"flipped": model.flipped} if flips else {}),
                "MB": model.bits / 8e6,
                "smaller": teacher.bits / model.bits,
                "seconds": model.seconds,
            }

        name = f"ensemble of {len(self.members)}"
        ensemble = Model(name, self.scores, self.bits, self.seconds)
        models = (*self.stages.values(), *self.members, ensemble, *self.rivals.values())
        return [row(model) for model in models]

    def to_pandas(self) -> pandas.DataFrame:
        """The rows of `table` as a DataFrame, with the names of the models as its index."""
        import pandas

        return pandas.DataFrame(self.table()).set_index("model")

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        from html import escape

        head = f"<p>{escape(self.task)}, seed {self.seed}: {escape(self.run)}</p>"
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return head + self.to_pandas().to_html(na_rep="", float_format="{:.4f}".format) + note

    def summary(self) -> dict[str, Any]:
        """The figures that scripts read: the last line that a job prints."""
        return {
            "run": self.run,
            "task": self.task,
            "metric": self.metric,
            **{name: self.headline(stage.scores) for name, stage in self.stages.items()},
            "members": self.member_scores,
            "alphas": [member.alpha for member in self.members],
            "ensemble": self.ensemble,
            "seconds": {name: round(stage.seconds, 1) for name, stage in self.stages.items()}
            | {"members": [round(member.seconds, 1) for member in self.members]},
            "selection": self.selection,
            "seed": self.seed,
        }

    def everything(self) -> dict[str, Any]:
        """What `results.json` holds: the summary, and all else that `from_json` needs."""

        def facts(model: Model) -> dict[str, Any]:
            return {name: value for name, value in vars(model).items() if value is not None}

        whole = self.summary() | {
            "version": VERSION,
            "classes": self.classes and list(self.classes),
            "note": self.note,
            "models": [facts(model) for model in (*self.stages.values(), *self.members)],
            "staged": self.staged,
            "predictions": {
                "labels": [label for label, _ in self.predictions],
                "ensemble": [prediction for _, prediction in self.predictions],
                "members": self.member_predictions,
                "models": self.model_predictions,
            },
            "bits_in_common": self.bits_in_common,
            "diagnostics": self.diagnostics,
            "baselines": self.baselines,
            "rivals": [facts(model) for model in self.rivals.values()],
            "packed": self.packed and vars(self.packed),
            "config": self.config,
            "versions": self.versions,
        }
        return whole | {"checksum": fingerprint(whole)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Results:
        """The results that `everything` has given.

        Args:
            content: of `results.json`.

        Raises:
            ValueError: the format is of another version, or something is missing or wrong.
        """
        version = content.get("version", 0)
        if version != VERSION:
            age = "an older" if version in range(VERSION) else "a newer"
            raise ValueError(f"its format is of {age} version of bebert_ray")
        try:
            return _read(cls, content)
        except (KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
            kind = type(error).__name__
            raise ValueError(f"a figure is missing or wrong ({kind}: {error})") from error


def _read(cls: type[Results], content: dict[str, Any]) -> Results:
    models = [Model(**facts) for facts in content["models"]]
    count = len(content["members"])
    stages, members = models[:-count], models[-count:]
    predictions = content["predictions"]
    classes, packed = content["classes"], content["packed"]
    results = cls(
        run=content["run"],
        task=content["task"],
        metrics=tuple(next(iter(models[0].scores.values()))),
        classes=classes and tuple(classes),
        dev=tuple(split for split in models[0].scores if split not in ("train", "selection")),
        selection=content["selection"],
        seed=content["seed"],
        stages={model.name: model for model in stages},
        members=members,
        staged=content["staged"],
        predictions=list(zip(predictions["labels"], predictions["ensemble"], strict=True)),
        note=content["note"],
        packed=packed and Packed(**packed),
        config=content["config"],
        versions=content["versions"],
        member_predictions=predictions["members"],
        model_predictions=predictions.get("models", {}),
        bits_in_common=content.get("bits_in_common", []),
        diagnostics=content.get("diagnostics", {}),
        baselines=content.get("baselines", {}),
        rivals={facts["name"]: Model(**facts) for facts in content.get("rivals", [])},
    )
    if results.summary() != {name: content[name] for name in results.summary()}:
        raise ValueError("its figures contradict each other")
    return results


def check_results(run: Location) -> None:
    """Refuse a run whose results a newer version has made, before they are written over.

    Raises:
        NewerVersion: they are.
        UserError: they cannot be read.
    """
    with suppress(FileNotFoundError, ValueError):  # damaged ones are written anew
        read_results(run)


def read_results(run: Location) -> dict[str, Any]:
    """The content of `results.json`, which is as it was written.

    Raises:
        FileNotFoundError: there is none.
        NewerVersion: a newer version of bebert_ray has made it.
        ValueError: it is damaged.
        UserError: it cannot be read.
    """
    place = run / RESULTS
    content = parse_json(read(place))
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    if "version" in content:
        check_version(content["version"], place, VERSION)
    # Results of earlier versions have no checksum.
    if content.pop("checksum", None) not in (None, fingerprint(content)):
        raise ValueError("it is not as it was written")
    return content


def to_json(value: dict[str, Any], indent: int | None = None) -> str:
    """Strict JSON, keys in the order given; with an indent, a list of numbers takes one line.

    >>> print(to_json({"seeds": [1, 2], "name": "x"}, indent=1))
    {
     "seeds": [1, 2],
     "name": "x"
    }

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    # A line break is never part of a JSON string.
    return re.sub(r'\[\n\s*([^"\[\]{}]*?)\n\s*\]', _one_line, text) if indent else text


def _one_line(found: re.Match[str]) -> str:
    return f"[{', '.join(part.strip() for part in found[1].split(','))}]"
