"""The robustness of a finished run: its models and others under all suites, over the cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bebert_ray.boosting.vote import shares
from bebert_ray.cluster.resources import MEMBERS_PER_GPU, allot, connected
from bebert_ray.cluster.spread import spread
from bebert_ray.data.corpus import Split
from bebert_ray.data.tasks import Task
from bebert_ray.errors import UserError
from bebert_ray.nn.checkpoint import find_checkpoint, load_tokenizer
from bebert_ray.nn.classes import find_order
from bebert_ray.pipeline.augmentation import open_replacer
from bebert_ray.pipeline.config_file import kept_config
from bebert_ray.pipeline.layout import Layout
from bebert_ray.pipeline.prepare import Prepared, prepare
from bebert_ray.pipeline.results import Results
from bebert_ray.pipeline.steps import shipped_precision
from bebert_ray.reporting.report import load_results
from bebert_ray.reporting.robustness import Curve, Robustness, SuiteFigures
from bebert_ray.robustness.files import read_examples
from bebert_ray.robustness.measure import area, figures, mean_figures
from bebert_ray.robustness.suites import Suite
from bebert_ray.robustness.work import CLEAN, Draw, Job, Subject, all_items, measure
from bebert_ray.scoring.classifier import Classifier, read_card
from bebert_ray.storage import Location, Miss

Outputs = dict[Draw, NDArray[np.float64]]


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        run: directory of a finished run.
        suites: the disturbances.
        files: files of perturbed examples, see `files.read_examples`.
        models: directories of other sequence classifiers.
        seed: of the random choices.
        repeats: how often each disturbance is drawn; figures are the means.
        examples: the most examples of dev, chosen at random; None: all.
    """

    run: Location
    suites: Sequence[Suite]
    files: Sequence[Path] = ()
    models: Sequence[str] = ()
    seed: int = 42
    repeats: int = 1
    examples: int | None = None


def measure_run(request: Request, progress: Callable[[str], None] = lambda _: None) -> Robustness:
    """Measure a run's models, its ensemble and other models under every suite.

    Args:
        request: see `Request`.
        progress: told how far it is, now and then.

    Raises:
        UserError: the run is not finished, its data are not there any more, a file or another model
            cannot be used.
        RunError: an artifact of the run is damaged, or a task failed.
    """
    results = load_results(request.run)
    prepared = _prepared(request.run)
    task = prepared.task
    files: dict[str, Split] = {}
    for path in request.files:
        if (name := f"file:{path.stem}") in files:
            raise UserError(
                f"--file {path}: another file is named {path.stem} too, and figures go by that "
                "name; rename one, or measure them one after the other"
            )
        files[name] = read_examples(path, task)
    suites = [
        *request.suites,
        *(Suite(name, "file", "perturbed examples", (1.0,)) for name in files),
    ]
    layout, shipped = Layout(request.run), shipped_precision(prepared.config)
    packed = [*(member.name for member in results.members), *results.rivals]
    subjects = [Subject(name, layout.artifact(name)) for name in results.stages]
    subjects += [Subject(name, layout.artifact(name), shipped) for name in packed]
    subjects += [_other(text, task) for text in request.models]
    job = _job(request, prepared, files, any(suite.name == "replace" for suite in suites))
    items, done = list(all_items(subjects, suites)), {}
    with connected(prepared.config.resources) as nodes:
        gpu = allot(prepared.config, nodes, shape=prepared.shape).stage.gpu
        gpu = min(gpu, 1 / MEMBERS_PER_GPU)  # nothing is trained, several models fit on one
        for item, outputs in spread(measure, job, items, "robustness", gpu):
            done[item.suite.name, item.subject.name] = outputs
            progress(
                f"robustness: {len(done)}/{len(items)} ({item.suite.name}, {item.subject.name})"
            )
    return _gather(request, results, task, job, suites, done)


def _prepared(run: Location) -> Prepared:
    try:
        config = replace(kept_config(run), output=str(run), fresh=False)
    except FileNotFoundError as error:
        raise UserError(f"{run} has no config.yaml: it is no run directory") from error
    prepared = prepare(config)
    known = prepared.find_data()
    if isinstance(known, Miss):
        raise UserError(
            f"{run}: the examples are not those that the run was made from any more "
            f"({known.reason[:200]}); data.path must hold what it held then"
        )
    return prepared


def _job(request: Request, prepared: Prepared, files: dict[str, Split], replaces: bool) -> Job:
    dev = next(iter(prepared.corpus.dev.values()))
    if request.examples is not None and request.examples < len(dev):
        rng = np.random.default_rng(request.seed)
        dev = dev.take(np.sort(rng.choice(len(dev), request.examples, replace=False)))
    choices = (
        open_replacer(prepared).choices(list(zip(*dev.texts, strict=True))) if replaces else []
    )
    return Job(
        examples={CLEAN.name: dev, **files},
        choices=choices,
        tokenizer=load_tokenizer(prepared.checkpoint),
        max_length=prepared.config.data.max_length,
        batch_size=prepared.config.training.eval_batch_size,
        seed=request.seed,
        repeats=request.repeats,
    )


def _other(text: str, task: Task) -> Subject:
    try:
        place = Location.of(find_checkpoint(text).path)
    except UserError:
        place = Location.parse(text)  # not a BERT; the classifier says what is wrong
    card = read_card(place)
    # Loaded once here, so that what it lacks is told before any work.
    Classifier(place, batch_size=1, device=torch.device("cpu"))
    if (card.labels is None) != task.is_regression:
        raise UserError(f"--model {text}: is no model of {task.name}: the kind of labels differs")
    if card.labels is None or task.labels is None:
        return Subject(text, place, is_other=True)
    if len(card.labels) != len(task.labels):
        raise UserError(
            f"--model {text}: knows {len(card.labels)} classes, {task.name} has {len(task.labels)}"
        )
    order = find_order(card.labels, task.labels, f"--model {text}", task.name)
    return Subject(text, place, is_other=True, order=order)


def _gather(
    request: Request,
    results: Results,
    task: Task,
    job: Job,
    suites: list[Suite],
    done: dict[tuple[str, str], Outputs | None],
) -> Robustness:
    members = [member.name for member in results.members]
    votes = shares(results.alphas)
    ensemble = f"ensemble of {len(members)}"
    others = [name for name in results.rivals] + list(request.models)
    named = [*results.stages, *members, ensemble, *others]

    def curve(suite: Suite, name: str) -> Curve | None:
        labels = job.examples.get(suite.name, job.examples[CLEAN.name]).labels
        models = members if name == ensemble else [name]
        each = [made for model in models if (made := done[suite.name, model]) is not None]
        if len(each) < len(models):
            return None
        weights = votes if name == ensemble else np.ones(1)

        def point(draw: Draw) -> dict[str, float]:
            return figures(task, _vote(weights, [each_of[draw] for each_of in each]), labels)

        return [
            mean_figures([point(draw) for draw in job.draws(suite) if draw[0] == strength])
            for strength in suite.strengths
        ]

    clean = {name: point[0] for name in named if (point := curve(CLEAN, name)) is not None}

    def of_suite(suite: Suite) -> SuiteFigures:
        curves = {name: found for name in named if (found := curve(suite, name)) is not None}
        areas = {}
        for name, found in curves.items():
            first, *scores = (point[task.metrics[0]] for point in [clean[name], *found])
            file = suite.kind == "file"
            areas[name] = scores[0] if file else area(suite.strengths, scores, first)
        return SuiteFigures(suite.name, suite.unit, suite.strengths, curves, areas)

    made = [figured for figured in map(of_suite, suites) if figured.curves]
    return Robustness(
        run=results.run,
        of=Robustness.sign(results),
        task=task.name,
        metrics=task.metrics,
        dev=results.dev[0],
        examples=len(job.examples[CLEAN.name]),
        seed=request.seed,
        repeats=request.repeats,
        members=tuple(members),
        ensemble=ensemble,
        clean=clean,
        suites=made,
    )


def _vote(weights: NDArray[np.float64], outputs: list[Any]) -> NDArray[np.float64]:
    voted: NDArray[np.float64] = np.tensordot(weights, np.stack(outputs), 1)
    return voted
