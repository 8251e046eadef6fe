import numpy as np
import pytest
from hypothesis import given

from bebert_ray.boosting.vote import combine, outputs
from bebert_ray.data.metrics import evaluate, primary, scorer, worst

from .conftest import Library, libraries, make_library


@given(libraries)
def test_scores_are_those_of_the_official_metric(library: Library) -> None:
    task, each = library.task, outputs(library.logits)
    scores = scorer(task, library.labels)(each.transpose(0, 2, 1))
    expected = [evaluate(task, one, library.labels)[primary(task)] for one in each]
    np.testing.assert_allclose(scores, expected, atol=1e-7)


@pytest.mark.parametrize("name", ["mnli", "stsb"])
def test_a_weighted_sum_of_outputs_is_what_the_ensemble_says(name: str) -> None:
    library, alphas = make_library(name, 3, 20, seed=1), np.array([0.2, 0.5, 0.3])
    mixed = np.tensordot(alphas, outputs(library.logits), axes=1)
    np.testing.assert_allclose(mixed, combine(library.logits, alphas))


def test_what_a_metric_leaves_undefined_is_0() -> None:
    constant = np.zeros((1, 1, 5))
    assert scorer(make_library("stsb", 1, 5, 0).task, np.arange(5.0))(constant) == [0]
    always_first = np.tile([[[1.0], [0.0]]], (1, 1, 5))
    assert scorer(make_library("cola", 1, 5, 0).task, np.array([0, 1, 0, 1, 1]))(always_first) == 0


@given(libraries)
def test_no_score_is_below_the_worst(library: Library) -> None:
    scores = scorer(library.task, library.labels)(outputs(library.logits).transpose(0, 2, 1))
    assert (scores >= worst(library.task) - 1e-9).all()
