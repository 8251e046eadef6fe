import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bebert_ray.data.metrics import _METRICS, evaluate, is_no_better_than_chance, primary
from bebert_ray.data.tasks import TASKS
from bebert_ray.errors import RunError


def logits(predictions, classes=2):
    return np.eye(classes)[predictions]


def test_golden_classification():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    scores = logits([1, 1, 0, 1, 0, 0, 0, 1])  # 3 true, 1 false positive; 3 true, 1 false negative
    assert evaluate(TASKS["mrpc"], scores, labels) == {
        "accuracy": pytest.approx(0.75),
        "f1": pytest.approx(0.75),
    }
    assert evaluate(TASKS["cola"], scores, labels) == {"matthews": pytest.approx(0.5)}


def test_the_largest_logit_is_the_prediction():
    scores = np.array([[0.1, -2.0, 0.0], [3.0, 3.5, -1.0]])
    assert evaluate(TASKS["mnli"], scores, np.array([0, 2])) == {"accuracy": 0.5}


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(-50, 50)), min_size=3, max_size=40).filter(
        lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    )
)
def test_correlations_against_their_definitions(pairs):
    labels, predictions = np.array(pairs, dtype=np.float32).T
    result = evaluate(TASKS["stsb"], predictions[:, None], labels)
    ranks = rankdata(labels), rankdata(predictions)
    assert result["pearson"] == pytest.approx(np.corrcoef(labels, predictions)[0, 1], abs=1e-6)
    assert result["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb"])
def test_a_model_that_always_says_the_same_scores_without_warnings(name):
    task = TASKS[name]
    labels = np.array([0, 1, 1, 0], dtype=np.float32 if task.is_regression else np.int64)
    scores = np.zeros((4, task.num_labels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(task, scores, labels)
        nearly = evaluate(task, scores + 1e8 + 1e-8 * np.arange(4)[:, None], labels)
    assert [result[metric] for metric in ("matthews", "f1", "pearson") if metric in result] == [0.0]
    assert all(np.isfinite(value) for value in nearly.values())


def test_a_single_class_on_both_sides():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate(TASKS["cola"], logits([1, 1]), np.array([1, 1])) == {"matthews": 0.0}


def test_no_better_than_chance():
    labels = np.repeat([1, 0], [700, 300])
    rare = np.concatenate([np.repeat([1, 0], [560, 140]), np.repeat([0, 1], [125, 175])])
    assert np.mean(rare == labels) < 0.7, "fewer right than if all were said to be 1"
    assert not is_no_better_than_chance(TASKS["cola"], logits(rare), labels)
    assert is_no_better_than_chance(TASKS["cola"], logits(1 - rare), labels)
    for constant in (np.zeros_like(labels), np.ones_like(labels)):
        assert is_no_better_than_chance(TASKS["cola"], logits(constant), labels)
    three = np.array([0, 1, 2])
    assert is_no_better_than_chance(TASKS["mnli"], logits([2, 2, 2], 3), three)
    assert not is_no_better_than_chance(TASKS["mnli"], logits([0, 2, 2], 3), three)
    for said in (np.zeros(3, int), np.ones(3, int)):
        assert not is_no_better_than_chance(TASKS["cola"], logits(said), np.ones(3, int))
    scores = np.array([[0.1], [0.2]], np.float32)
    assert not is_no_better_than_chance(TASKS["stsb"], scores, np.array([1.0, 2.0], np.float32))
    assert is_no_better_than_chance(TASKS["stsb"], scores, np.array([2.0, 1.0], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_an_error(bad):
    with pytest.raises(RunError, match="diverged"):
        evaluate(TASKS["sst2"], np.array([[0.0, bad]]), np.array([0]))


def test_primary_is_the_first():
    assert {name: primary(task) for name, task in TASKS.items()} == {
        "cola": "matthews",
        "stsb": "pearson",
        **dict.fromkeys(("sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli", "demo"), "accuracy"),
    }
    many = replace(TASKS["sst2"], labels=tuple("abcde"))
    assert evaluate(many, logits([4, 0], classes=5), np.array([4, 1])) == {"accuracy": 0.5}


@given(
    st.integers(2, 5).flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(0, classes - 1), min_size=7, max_size=7), min_size=2, max_size=5
        )
    )
)
def test_batched_class_metrics_are_those_of_scikit_learn(rows):
    labels, predicted = np.array(rows[0]), np.array(rows[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class on both sides
        theirs = {
            "accuracy": [accuracy_score(labels, row) for row in predicted],
            "matthews": [matthews_corrcoef(labels, row) for row in predicted],
            "f1": [f1_score(labels == 1, row == 1, zero_division=0.0) for row in predicted],
        }
    for name, expected in theirs.items():
        np.testing.assert_allclose(_METRICS[name](predicted, labels), expected, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(3, 30), st.sampled_from([1, 1e-6, 1e6]))
def test_batched_correlations_are_those_of_scipy(seed, n, scale):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) // 2  # with ties, and never all the same
    predicted = scale * (rng.normal(size=(3, n)).round(1) + 5)
    predicted[2] = 0.1 * scale  # whose mean need not be itself
    for name, theirs in (("pearson", pearsonr), ("spearman", spearmanr)):
        values = _METRICS[name](predicted, labels)
        for row, value in zip(predicted[:2], values, strict=False):
            if np.ptp(row):
                assert value == pytest.approx(theirs(labels, row)[0], abs=1e-9)
        assert values[2] == 0
