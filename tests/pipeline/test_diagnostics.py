from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score

from bebert_ray.pipeline.diagnostics import baselines, diversity, paired_test

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


def test_baselines_of_a_regression_have_no_p_value():
    assert baselines({"split": 0.8}) == {"split": {"score": 0.8, "p": None}}


def test_baselines_are_tested_against_the_ensemble():
    labels, ensemble = [1] * 6, [1] * 6
    of_members = [[0] * 6, [0, 0, 0, 0, 1, 1]]
    found = baselines(
        {"mean member": 1 / 6, "split": 0.0},
        labels,
        ensemble,
        {"mean member": of_members, "split": [0] * 6},
    )
    assert found == {
        "mean member": {"score": 1 / 6, "p": pytest.approx(1 / 32)},
        "split": {"score": 0.0, "p": pytest.approx(1 / 32)},
    }
