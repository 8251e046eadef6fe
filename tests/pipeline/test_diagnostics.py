from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest, norm
from sklearn.metrics import cohen_kappa_score

from bebert_ray.pipeline.diagnostics import (
    baselines,
    correlation_test,
    diversity,
    diversity_of_scores,
    paired_test,
)

predictions = st.integers(2, 40).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=3, max_size=3
    ).map(np.array)
)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's, of predictions of a single class
@given(predictions)
def test_diversity_is_what_the_definitions_say(three):
    labels, *members = three
    figures = diversity(labels, members)
    one, other = members
    assert figures["disagreement"] == np.mean(one != other)
    assert figures["oracle"] == np.mean((one == labels) | (other == labels))
    kappa = cohen_kappa_score(one, other)
    assert figures["kappa"] == pytest.approx(1.0 if np.isnan(kappa) else kappa)
    errors = np.array([one != labels, other != labels], float)
    if errors.std(axis=1).all():
        assert figures["error_correlation"] == pytest.approx(np.corrcoef(errors)[0, 1])
    else:
        assert figures["error_correlation"] == 0


def test_a_single_member_has_no_diversity():
    assert diversity([0, 1], [[0, 1]]) == {}
    assert diversity_of_scores([0, 1], [[0, 1]]) == {}


def test_errors_of_a_regression_correlate_by_what_they_share():
    labels, shared, *own = np.random.default_rng(0).normal(size=(5, 4000))
    members = [labels + shared + each for each in own]
    found = diversity_of_scores(labels, members)["error_correlation"]
    assert found == pytest.approx(0.5, abs=0.03)
    assert diversity_of_scores(labels, [labels, members[0]]) == {"error_correlation": 0.0}


@given(b=st.integers(0, 30), c=st.integers(0, 30), both=st.integers(0, 5))
def test_against_one_model_it_is_mcnemars_test(b, c, both):
    labels = np.ones(b + c + both, int)
    one = np.array([1] * b + [0] * c + [1] * both)
    other = np.array([0] * b + [1] * c + [1] * both)
    expected = min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5)) if b + c else 1.0
    assert paired_test(labels, one, other) == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=9))
def test_against_a_mean_all_signs_are_tried(rows):
    ensemble, *others = np.array(rows).T
    found = paired_test(np.ones(len(rows), int), ensemble, others)
    differences = 3 * ensemble - np.sum(others, axis=0)
    sums = [differences @ signs for signs in product((1, -1), repeat=len(rows))]
    assert found == pytest.approx(np.mean(np.abs(sums) >= abs(differences.sum())))


def differing(rng, n, gain):
    """Labels, an ensemble and two others, which correlate with the labels less by `gain`."""
    labels = rng.normal(size=n)
    shared = labels + 0.5 * rng.normal(size=n)
    own = rng.normal(size=(3, n))
    return labels, shared + 0.3 * own[0], shared + (0.3 + gain) * own[1:]


def test_the_p_values_of_regressions_are_even_where_nothing_differs():
    rng = np.random.default_rng(1)
    found = [correlation_test(*differing(rng, 300, 0.0)) for _ in range(400)]
    assert kstest(found, "uniform").pvalue > 0.01


def test_the_standard_error_of_a_correlation_is_that_of_the_bootstrap():
    rng = np.random.default_rng(2)
    labels, ensemble, others = differing(rng, 500, 0.1)

    def difference(rows):
        every = np.corrcoef([labels[rows], ensemble[rows], *others[:, rows]])[0, 1:]
        return every[0] - every[1:].mean()

    error = np.std([difference(rng.integers(500, size=500)) for _ in range(2000)])
    in_errors = norm.isf(correlation_test(labels, ensemble, others) / 2)
    assert in_errors == pytest.approx(abs(difference(np.arange(500))) / error, rel=0.05)
    assert 1 < in_errors < 5, "it tells something"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_correlations_know_no_unit(scale):
    labels, ensemble, others = differing(np.random.default_rng(3), 100, 0.2)
    found = correlation_test(scale * labels + 7, scale * ensemble, scale * others - 3)
    assert found == pytest.approx(correlation_test(labels, ensemble, others))


def test_predictions_that_are_all_the_same_correlate_by_nothing():
    labels, ensemble, _ = differing(np.random.default_rng(4), 100, 0)
    assert correlation_test(labels, ensemble, np.full(100, 3.0)) < 1e-6
    assert correlation_test(labels, np.full(100, 3.0), np.full(100, 3.0)) == 1
    assert correlation_test(np.ones(100), ensemble, np.full(100, 3.0)) == 1


def test_baselines_are_tested_against_the_ensemble():
    labels, ensemble = [1] * 6, [1] * 6
    of_members = [[0] * 6, [0, 0, 0, 0, 1, 1]]
    found = baselines(
        {"mean member": 1 / 6, "split": 0.0},
        {"mean member": of_members, "split": [0] * 6},
        labels,
        ensemble,
    )
    assert found == {
        "mean member": {"score": 1 / 6, "p": pytest.approx(1 / 32)},
        "split": {"score": 0.0, "p": pytest.approx(1 / 32)},
    }
