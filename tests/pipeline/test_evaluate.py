"""Scores of an ensemble are those of its combined members."""

import numpy as np
import pytest

from bebert_ray.boosting.vote import combine
from bebert_ray.data.metrics import evaluate
from bebert_ray.data.tasks import TASKS
from bebert_ray.pipeline.evaluate import (
    ensemble_predictions,
    ensemble_scores,
    predictions,
    staged_scores,
)

ALPHAS = [0.5, 1.5, 0.25]


@pytest.fixture(params=["mrpc", "stsb"])
def case(request):
    """A task, logits of three members, and labels."""
    rng, task = np.random.default_rng(0), TASKS[request.param]
    width = 1 if task.is_regression else task.num_labels
    labels = rng.uniform(0, 5, 40) if task.is_regression else rng.integers(2, size=40)
    return task, [rng.normal(size=(40, width)) for _ in ALPHAS], labels


def test_metrics_are_those_of_the_vote(case):
    task, logits, labels = case
    expected = evaluate(task, combine(np.stack(logits), ALPHAS), labels)
    assert ensemble_scores(task, logits, ALPHAS, labels) == expected
    stages = staged_scores(task, logits, ALPHAS, labels)
    assert stages[-1] == expected
    assert stages[0] == ensemble_scores(task, logits[:1], ALPHAS[:1], labels)
    assert len(stages) == 3


def test_predictions_are_what_is_scored(case):
    task, logits, labels = case
    if task.is_regression:
        assert predictions(task, logits[0]) == logits[0][:, 0].tolist()
        return
    predicted = np.array(ensemble_predictions(task, logits, ALPHAS))
    accuracy = ensemble_scores(task, logits, ALPHAS, labels)["accuracy"]
    assert (predicted == labels).mean() == accuracy


def test_members_without_weight_count_the_same(case):
    task, logits, labels = case
    zeros, ones = (ensemble_scores(task, logits, [w] * 3, labels) for w in (0.0, 1.0))
    assert zeros == ones
