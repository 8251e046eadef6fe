import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.boosting.vote import combine, outputs, shares, staged

rng = np.random.default_rng(0)


def test_classification_is_the_weighted_mean_of_probabilities():
    # softmax([log 3, 0]) = [3/4, 1/4]; softmax([0, 0]) = [1/2, 1/2]
    logits = np.array([[[np.log(3), 0.0]], [[0.0, 0.0]]])
    np.testing.assert_allclose(combine(logits, [3.0, 1.0]), [[0.6875, 0.3125]], rtol=1e-12)


def test_regression_is_the_weighted_mean_of_outputs():
    logits = np.array([[[1.0], [2.0]], [[4.0], [-2.0]]])
    np.testing.assert_allclose(combine(logits, [1.0, 2.0]), [[3.0], [-2 / 3]], rtol=1e-12)


def test_a_doubting_majority_can_outvote_by_probability_and_not_by_count():
    sure, unsure = [[6.0, 0.0]], [[0.0, 0.1]]
    assert combine(np.array([sure, unsure, unsure]), [1, 1, 1])[0].argmax() == 0


def test_a_member_with_alpha_zero_does_not_count():
    logits = rng.normal(size=(3, 5, 4))
    np.testing.assert_allclose(combine(logits, [0, 2, 0]), combine(logits[1:2], [1]), rtol=1e-12)


def test_all_zero_alphas_mean_equal_members():
    logits = rng.normal(size=(3, 5, 4))
    np.testing.assert_array_equal(combine(logits, [0, 0, 0]), combine(logits, [1, 1, 1]))


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("alphas", [[0.7, 0.1, 2.0, 0.4], [0, 0, 1, 1], [1, 0, 0, 2], [0, 0, 0, 0]])
def test_staged_scores_are_those_of_each_shorter_ensemble(labels, alphas):
    logits = rng.normal(size=(4, 6, labels)).astype(np.float32)
    stages = staged(logits, alphas)
    assert len(stages) == 4
    for m, scores in enumerate(stages, start=1):
        np.testing.assert_allclose(scores, combine(logits[:m], alphas[:m]), rtol=1e-12)


def test_large_logits_do_not_overflow():
    np.testing.assert_array_equal(combine(np.array([[[1e4, 0.0]]]), [1.0]), [[1.0, 0.0]])


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.floats(0.01, 100), st.data())
def test_scores_are_probabilities_and_only_ratios_and_sets_of_members_matter(alphas, factor, data):
    order = data.draw(st.permutations(range(len(alphas))))
    logits = np.random.default_rng(len(alphas)).normal(size=(len(alphas), 7, 3))
    scores = combine(logits, alphas)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(combine(logits, np.array(alphas) * factor), scores, rtol=1e-12)
    np.testing.assert_allclose(combine(logits[order], np.array(alphas)[order]), scores, rtol=1e-12)


@pytest.mark.parametrize(
    ("logits", "alphas", "message"),
    [
        (np.zeros((2, 3, 2)), [1.0, -0.1], "negative"),
        (np.zeros((2, 3, 2)), [1.0, np.nan], "finite"),
        (np.zeros((2, 3, 2)), [1.0], "2 members need alphas"),
        (np.zeros((3, 2)), [1.0], r"\[M, n, K\]"),
        (np.zeros((0, 3, 2)), [], r"\[M, n, K\]"),
        (np.full((1, 3, 2), np.nan), [1.0], "logits hold"),
    ],
)
def test_bad_input_is_refused(logits, alphas, message):
    with pytest.raises(ValueError, match=message):
        combine(logits, alphas)


def test_shares_sum_to_one_and_are_even_without_alphas():
    np.testing.assert_array_equal(shares([1, 3]), [0.25, 0.75])
    np.testing.assert_array_equal(shares([0.0] * 4), [0.25] * 4)
    for alphas in ([], [[1.0]], [-1.0], [np.inf]):
        with pytest.raises(ValueError, match="alphas"):
            shares(alphas)


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_scores_are_the_shares_of_the_outputs(labels):
    logits = rng.normal(size=(3, 5, labels))
    expected = np.tensordot(shares([2, 0, 1]), outputs(logits), axes=1)
    np.testing.assert_allclose(combine(logits, [2, 0, 1]), expected, rtol=1e-12)
