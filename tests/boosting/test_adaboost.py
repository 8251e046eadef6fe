"""Boosting against scikit-learn's own loops, and the laws that any boosting step obeys."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.ensemble import AdaBoostClassifier, AdaBoostRegressor

from bebert_ray.boosting.adaboost import (
    Boost,
    boost,
    bootstrap,
    misclassified,
    regression_loss,
    temper,
)

EPSILON = np.finfo(np.float64).eps


def run_boosting(losses, num_labels, learning_rate=1.0, sample_weight=None):
    """The loop that the driver runs, on members whose losses are known: the steps, the weights."""
    weight = np.full(len(losses[0]), 1 / len(losses[0])) if sample_weight is None else sample_weight
    steps, trained_with = [], []
    for loss in losses:
        trained_with.append(weight)
        steps.append(boost(weight, loss, num_labels=num_labels, learning_rate=learning_rate))
        weight = steps[-1].sample_weight
        if steps[-1].status != "ok":
            break
    return steps, trained_with


# --- scikit-learn's loops, run on members whose predictions are given in advance ---


def sklearn_classifier(predictions, labels, num_labels, learning_rate=1.0, sample_weight=None):
    """AdaBoostClassifier over fixed predictions; X is each example's index."""
    trained_with = []

    class Fixed(ClassifierMixin, BaseEstimator):
        def fit(self, X, y, sample_weight):
            self.classes_, self.round_ = np.arange(num_labels), len(trained_with)
            trained_with.append(sample_weight.copy())
            return self

        def predict(self, X):
            return predictions[self.round_][X[:, 0]]

    model = AdaBoostClassifier(Fixed(), n_estimators=len(predictions), learning_rate=learning_rate)
    index = np.arange(len(labels))[:, None]
    with np.errstate(divide="ignore"):  # it takes the logarithm of weights that are 0
        return model.fit(index, labels, sample_weight=sample_weight), trained_with


def sklearn_regressor(predictions, targets, loss, learning_rate=1.0, sample_weight=None):
    """AdaBoostRegressor over fixed predictions; its weights are seen on their way into a round."""
    trained_with = []

    class Fixed(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            self.round_ = len(trained_with) - 1
            return self

        def predict(self, X):
            return predictions[self.round_][X[:, 0]]

    class Watched(AdaBoostRegressor):
        def _boost(self, iboost, X, y, sample_weight, random_state):
            trained_with.append(sample_weight.copy())
            return super()._boost(iboost, X, y, sample_weight, random_state)

    model = Watched(Fixed(), n_estimators=len(predictions), learning_rate=learning_rate, loss=loss)
    index = np.arange(len(targets))[:, None]
    return model.fit(index, targets, sample_weight=sample_weight), trained_with


def assert_same(model, sklearn_weights, steps, weights):
    kept = [step for step in steps if step.status != "worse_than_chance"]
    rounds = len(model.estimator_weights_)
    alphas = [step.alpha for step in kept] + [0.0] * (rounds - len(kept))
    errors = [step.error for step in kept] + [1.0] * (rounds - len(kept))
    np.testing.assert_allclose(model.estimator_weights_, alphas, rtol=1e-9)
    np.testing.assert_allclose(model.estimator_errors_, errors, rtol=1e-9)
    assert len(sklearn_weights) == len(weights)
    np.testing.assert_allclose(sklearn_weights, weights, rtol=1e-9)


def noisy_labels(rng, labels, num_labels, wrong):
    noise = (labels + rng.integers(1, num_labels, size=labels.shape)) % num_labels
    return np.where(rng.random(labels.shape) < wrong, noise, labels)


def logits_of(predictions, num_labels):
    return np.eye(num_labels)[predictions]


def zeros_in(rng, n):
    weight = rng.random(n)
    weight[:: n // 7] = 0
    return weight / weight.sum()


@pytest.mark.parametrize("num_labels", [2, 3, 5])
@pytest.mark.parametrize("learning_rate", [1.0, 0.3])
@pytest.mark.parametrize("uneven", [False, True])
def test_samme_is_scikit_learns(num_labels, learning_rate, uneven):
    rng = np.random.default_rng(num_labels)
    labels = rng.integers(num_labels, size=200)
    predictions = [noisy_labels(rng, labels, num_labels, wrong=0.2) for _ in range(6)]
    start = zeros_in(rng, 200) if uneven else None
    losses = [misclassified(logits_of(p, num_labels), labels) for p in predictions]
    ours = run_boosting(losses, num_labels, learning_rate, start)
    assert len(ours[0]) == 6
    assert_same(*sklearn_classifier(predictions, labels, num_labels, learning_rate, start), *ours)


@pytest.mark.parametrize("shape", ["linear", "square", "exponential"])
@pytest.mark.parametrize("learning_rate", [1.0, 0.3])
@pytest.mark.parametrize("uneven", [False, True])
def test_adaboost_r2_is_scikit_learns(shape, learning_rate, uneven):
    rng = np.random.default_rng(7)
    targets = rng.uniform(0, 5, size=200)
    predictions = [targets + rng.normal(scale=0.8, size=200) for _ in range(6)]
    start = zeros_in(rng, 200) if uneven else None
    counted = np.ones(200, bool) if start is None else start > 0
    predictions[2][~counted] += 50  # an error on an example without weight is no yardstick
    losses = [
        regression_loss(p, targets, shape, scale=np.abs(p - targets)[counted].max())
        for p in predictions
    ]
    ours = run_boosting(losses, 1, learning_rate, start)
    assert len(ours[0]) == 6
    assert_same(*sklearn_regressor(predictions, targets, shape, learning_rate, start), *ours)


def test_a_perfect_member_stops_both_with_alpha_one():
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=50)
    predictions = [noisy_labels(rng, labels, 2, 0.2), labels, labels]
    steps, weights = run_boosting([misclassified(logits_of(p, 2), labels) for p in predictions], 2)
    assert [step.status for step in steps] == ["ok", "perfect"]
    assert_same(*sklearn_classifier(predictions, labels, 2), steps, weights)

    targets = labels + 0.5
    predictions = [targets + rng.normal(size=50), targets, targets]
    steps, weights = run_boosting([regression_loss(p, targets) for p in predictions], 1)
    assert [step.status for step in steps] == ["ok", "perfect"]
    assert_same(*sklearn_regressor(predictions, targets, "linear"), steps, weights)


@pytest.mark.parametrize("num_labels", [2, 4])
def test_a_member_no_better_than_chance_stops_both_and_is_discarded(num_labels):
    labels = np.arange(48) % num_labels
    good, chance = labels.copy(), np.zeros(48, int)
    good[:num_labels] = (good[:num_labels] + 1) % num_labels  # errors even over the labels
    predictions = [good, chance, good]
    losses = [misclassified(logits_of(p, num_labels), labels) for p in predictions]
    steps, weights = run_boosting(losses, num_labels)
    assert [step.status for step in steps] == ["ok", "worse_than_chance"]
    assert steps[1].alpha == 0
    np.testing.assert_array_equal(steps[1].sample_weight, steps[0].sample_weight)
    assert_same(*sklearn_classifier(predictions, labels, num_labels), steps, weights)


def test_a_regressor_with_half_the_loss_or_more_stops_both():
    targets = np.zeros(20)
    good, bad = np.linspace(0, 0.5, 20) ** 4, np.linspace(0.9, 1, 20)
    steps, weights = run_boosting([regression_loss(p, targets) for p in (good, bad)], 1)
    assert [step.status for step in steps] == ["ok", "worse_than_chance"]
    assert_same(*sklearn_regressor([good, bad], targets, "linear"), steps, weights)


def test_weights_that_shrink_away_are_held_at_epsilon_as_scikit_learns():
    labels = np.zeros(10, int)
    predictions = []
    for round_ in range(100):  # 0 and 1 are never wrong, the other examples in turn
        predictions.append(labels.copy())
        predictions[-1][2 + round_ % 8] = 1
    losses = [misclassified(logits_of(p, 2), labels) for p in predictions]
    start = np.array([0.0] + [1 / 9] * 9)
    steps, weights = run_boosting(losses, 2, 1.0, start)
    assert all(w[0] == 0 for w in weights)
    assert weights[-1][1] == pytest.approx(EPSILON)  # without the clip it would be near 1e-25
    assert_same(*sklearn_classifier(predictions, labels, 2, 1.0, start), steps, weights)


# --- one step, by hand and by law ---


def test_one_samme_step_by_hand():
    step = boost([0.25] * 4, [1, 0, 0, 0], num_labels=2)
    assert step.status == "ok"
    assert step.error == 0.25
    assert step.alpha == pytest.approx(np.log(3))
    np.testing.assert_allclose(step.sample_weight, [1 / 2, 1 / 6, 1 / 6, 1 / 6], rtol=1e-12)


def test_one_adaboost_r2_step_by_hand():
    # e = 1/4, beta = 1/3; weights before normalising: beta^0, beta^1, beta^1, beta^1
    step = boost([0.25] * 4, [1, 0, 0, 0], num_labels=1)
    assert step.alpha == pytest.approx(np.log(3))
    np.testing.assert_allclose(step.sample_weight, [1 / 2, 1 / 6, 1 / 6, 1 / 6], rtol=1e-12)


def test_more_labels_raise_alpha_by_log_k_minus_one():
    two, five = (boost([0.25] * 4, [1, 0, 0, 0], num_labels=k).alpha for k in (2, 5))
    assert five - two == pytest.approx(np.log(4))


def test_an_error_measured_elsewhere_makes_alpha_and_status_and_leaves_the_update_to_the_loss():
    start, loss = [0.25] * 4, [1, 0, 0, 0]
    step = boost(start, loss, num_labels=2, error=0.4)
    assert (step.error, step.alpha) == (0.4, pytest.approx(np.log(1.5)))
    np.testing.assert_allclose(step.sample_weight, np.array([1.5, 1, 1, 1]) / 4.5, rtol=1e-12)
    assert boost(start, loss, num_labels=2, error=0.5).status == "worse_than_chance"
    assert boost(start, loss, num_labels=2, error=0.0).status == "perfect"
    fitted = boost(start, np.zeros(4), num_labels=2, error=0.2)
    assert fitted.status == "ok"
    np.testing.assert_allclose(fitted.sample_weight, start, rtol=1e-12)


def test_an_error_next_to_nothing_keeps_everything_finite():
    step = boost([5e-324, 1.0], [1, 0], num_labels=2)
    assert np.isfinite(step.alpha)
    np.testing.assert_allclose(step.sample_weight.sum(), 1)
    step = boost([0.5, 0.5], [1, 0], num_labels=2, error=1e-300, learning_rate=100)
    np.testing.assert_allclose(step.sample_weight, [1, EPSILON])


def test_arguments_are_left_as_they_were():
    weight, loss = np.full(4, 0.25), np.array([1.0, 0, 0, 0])
    boost(weight, loss, num_labels=2)
    temper(weight, 0.5)
    np.testing.assert_array_equal(weight, 0.25)
    np.testing.assert_array_equal(loss, [1, 0, 0, 0])


@st.composite
def weighted_losses(draw):
    """A distribution with some exact zeros, and losses that a member better than chance makes."""
    n = draw(st.integers(3, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.random(n) * (rng.random(n) < 0.9)
    assume(weight.sum() > 0)
    num_labels = draw(st.integers(1, 5))
    loss = rng.random(n) if num_labels == 1 else (rng.random(n) < 0.3).astype(float)
    learning_rate = draw(st.floats(0.01, 2))
    return weight / weight.sum(), loss, num_labels, learning_rate


def step_of(case) -> Boost:
    weight, loss, num_labels, learning_rate = case
    step = boost(weight, loss, num_labels=num_labels, learning_rate=learning_rate)
    assume(step.status == "ok")
    return step


@given(weighted_losses())
def test_weights_stay_a_distribution_on_the_same_examples(case):
    step = step_of(case)
    np.testing.assert_allclose(step.sample_weight.sum(), 1, rtol=1e-12)
    np.testing.assert_array_equal(step.sample_weight > 0, case[0] > 0)
    assert step.alpha > 0


@given(weighted_losses())
def test_the_larger_the_loss_the_larger_the_growth(case):
    step, (weight, loss, *_) = step_of(case), case
    counted = weight > 1e-9  # away from the clip at epsilon
    growth = (step.sample_weight[counted] / weight[counted])[np.argsort(loss[counted])]
    assert (np.diff(growth) >= -1e-9 * growth[1:]).all()


@given(weighted_losses())
def test_a_vanishing_learning_rate_changes_nothing(case):
    weight, loss, num_labels, _ = case
    step = step_of((weight, loss, num_labels, 1e-9))
    np.testing.assert_allclose(step.sample_weight, weight, rtol=1e-6, atol=1e-15)
    assert step.alpha < 1e-6


@given(weighted_losses())
def test_permuting_the_examples_permutes_the_weights(case):
    weight, loss, num_labels, learning_rate = case
    step = step_of(case)
    order = np.random.default_rng(0).permutation(len(weight))
    moved = step_of((weight[order], loss[order], num_labels, learning_rate))
    assert moved.alpha == pytest.approx(step.alpha, rel=1e-9)
    np.testing.assert_allclose(moved.sample_weight, step.sample_weight[order], rtol=1e-9)


@given(weighted_losses())
def test_after_a_plain_samme_step_the_member_is_at_chance(case):
    """What boosting is for: under the new weights, the member just trained tells nothing."""
    weight, loss, num_labels, _ = case
    assume(num_labels > 1)
    step = step_of((weight, loss, num_labels, 1.0))
    assert step.sample_weight @ loss == pytest.approx(1 - 1 / num_labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sample_weight": [0.5, 0.6]}, "sum to 1"),
        ({"sample_weight": [1.5, -0.5]}, "below 0"),
        ({"sample_weight": [np.nan, 1]}, "sample_weight"),
        ({"loss": [0.0, 1.5]}, "loss"),
        ({"loss": [0.0, np.nan]}, "loss"),
        ({"loss": [0.0]}, "loss"),
        ({"error": -0.1}, "error"),
        ({"error": np.nan}, "error"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"num_labels": 0}, "num_labels"),
    ],
)
def test_boost_refuses(changed, message):
    arguments = {"sample_weight": [0.5, 0.5], "loss": [0.0, 1.0], "num_labels": 2} | changed
    with pytest.raises(ValueError, match=message):
        boost(arguments.pop("sample_weight"), arguments.pop("loss"), **arguments)


# --- losses, floor, bootstrap ---


def test_misclassified():
    np.testing.assert_array_equal(misclassified([[1, 2, 0], [3, 0, 1]], [1, 2]), [0, 1])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0], [2.0]], [0, 1], "not .n, K."),
        ([[1.0, 2.0]], [0, 1], "not .n, K."),
        ([[np.nan, 2.0]], [1], "not finite"),
    ],
)
def test_misclassified_refuses(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        misclassified(logits, labels)


def test_regression_loss_shapes():
    error, zeros = [0, 1, -2], np.zeros(3)
    np.testing.assert_allclose(regression_loss(error, zeros), [0, 0.5, 1])
    np.testing.assert_allclose(regression_loss(error, zeros, "square"), [0, 0.25, 1])
    np.testing.assert_allclose(
        regression_loss(error, zeros, "exponential"), [0, 1 - np.exp(-0.5), 1 - np.exp(-1)]
    )


def test_regression_loss_scale():
    np.testing.assert_allclose(regression_loss([0, 1, 2], [0, 0, 0], scale=4), [0, 0.25, 0.5])
    np.testing.assert_array_equal(regression_loss([0, 1, 9], [0, 0, 0], scale=2), [0, 0.5, 1])
    np.testing.assert_array_equal(regression_loss([0, 1], [0, 0], scale=0), [0, 1])
    np.testing.assert_array_equal(regression_loss([3, 1], [3, 1]), [0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0]), "not both"),
        (([[1.0]], [[1.0]]), "not both"),
        (([np.nan], [1.0]), "not finite"),
        (([1.0], [1.0], "cubic"), "cubic"),
        (([1.0], [1.0], "linear", -1.0), "scale"),
    ],
)
def test_regression_loss_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        regression_loss(*arguments)


def test_temper_mixes_the_uniform_distribution_in():
    weight = [0.7, 0.3, 0.0, 0.0]
    np.testing.assert_array_equal(temper(weight, 0), weight)
    np.testing.assert_array_equal(temper(weight, 1), 0.25)
    np.testing.assert_allclose(temper(weight, 0.2), [0.61, 0.29, 0.05, 0.05])
    for floor in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="floor"):
            temper(weight, floor)


def test_bootstrap_counts_draws_with_replacement():
    weight = bootstrap(10_000, np.random.default_rng(0))
    counts = weight * 10_000
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    assert weight.sum() == pytest.approx(1)
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.02)  # what a member never sees
    np.testing.assert_array_equal(weight, bootstrap(10_000, np.random.default_rng(0)))
    assert (weight != bootstrap(10_000, np.random.default_rng(1))).any()
    with pytest.raises(ValueError, match="0 examples"):
        bootstrap(0, np.random.default_rng(0))
