"""One round of boosting or bagging: where the error comes from, and what goes on to the next."""

import numpy as np
import pytest

from bebert_ray.boosting.rounds import Predictions, Weights, boost_round, member_weight
from bebert_ray.config import EnsembleConfig

# Four training and five held-out examples of class 0; the member is wrong on the first of each.
RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]
CLASSES = Predictions(
    np.float32([WRONG, RIGHT, RIGHT, RIGHT]),
    np.zeros(4, np.int64),
    np.float32([WRONG, RIGHT, RIGHT, RIGHT, RIGHT]),
    np.zeros(5, np.int64),
)


def settings(**changes):
    return EnsembleConfig(**({"learning_rate": 1.0, "floor": 0.0} | changes))


def round_(config, weights=None, predictions=CLASSES, num_labels=2):
    weights = weights or Weights.uniform(len(predictions.train), len(predictions.selection))
    return boost_round(config, num_labels, weights, predictions)


def test_weights_start_equal():
    weights = Weights.uniform(4, 5)
    assert weights.train.tolist() == [0.25] * 4
    assert weights.selection.tolist() == [0.2] * 5


def test_plain_adaboost_takes_errors_from_train():
    after, step = round_(settings(errors="train"))
    assert step.error == 0.25
    assert step.alpha == pytest.approx(np.log(3))
    # Half of the mass now lies on what the member got wrong.
    np.testing.assert_allclose(after.train, [1 / 2, 1 / 6, 1 / 6, 1 / 6])
    np.testing.assert_allclose(after.selection, 0.2)


def test_out_of_fold_predictions_are_treated_as_those_on_train():
    one, other = round_(settings(errors="train")), round_(settings(errors="out_of_fold"))
    np.testing.assert_array_equal(one[0].train, other[0].train)
    assert one[1].alpha == other[1].alpha


def test_holdout_judges_on_held_out_examples_and_still_moves_the_weights_of_train():
    after, step = round_(settings(errors="holdout"))
    assert step.error == pytest.approx(0.2)
    alpha = np.log(4)
    assert step.alpha == pytest.approx(alpha)
    np.testing.assert_allclose(after.train, np.array([4, 1, 1, 1]) / 7)
    np.testing.assert_allclose(after.selection, np.array([4, 1, 1, 1, 1]) / 8)


def test_held_out_examples_carry_their_weights_on():
    after, first = round_(settings(errors="holdout"))
    _, second = round_(settings(errors="holdout", learning_rate=0.5), after)
    assert first.error == pytest.approx(0.2)
    assert second.error == pytest.approx(0.5)
    assert second.status == "worse_than_chance", "the same member again has nothing to add"


@pytest.mark.parametrize("errors", ["train", "holdout"])
def test_the_floor_keeps_mass_on_every_example(errors):
    plain, _ = round_(settings(errors=errors))
    floored, _ = round_(settings(errors=errors, floor=0.4))
    np.testing.assert_allclose(floored.train, 0.6 * plain.train + 0.1)
    even, _ = round_(settings(errors=errors, floor=1.0))
    np.testing.assert_allclose(even.train, 0.25)


@pytest.mark.parametrize("errors", ["train", "holdout", "out_of_fold"])
def test_a_member_without_errors_is_perfect(errors):
    right = Predictions(
        np.float32([RIGHT] * 4), np.zeros(4, int), np.float32([RIGHT] * 5), np.zeros(5, int)
    )
    after, step = round_(settings(errors=errors), predictions=right)
    assert (step.status, step.alpha) == ("perfect", 1.0)
    np.testing.assert_allclose(after.train, 0.25)


def test_no_held_out_error_is_half_an_error():
    right = Predictions(
        CLASSES.train, CLASSES.train_labels, np.float32([RIGHT] * 5), np.zeros(5, int)
    )
    after, step = round_(settings(errors="holdout"), predictions=right)
    _, one_wrong = round_(settings(errors="holdout"))
    assert (step.status, step.error) == ("ok", pytest.approx(0.5 / 6))
    assert step.alpha > one_wrong.alpha
    assert after.train[0] > after.train[1], "what it gets wrong in training has more weight"


@pytest.mark.parametrize("errors", ["train", "holdout", "out_of_fold"])
def test_a_member_that_is_left_out_changes_no_weights(errors):
    wrong = Predictions(
        np.float32([WRONG] * 4), np.zeros(4, int), np.float32([WRONG] * 5), np.zeros(5, int)
    )
    before = Weights(np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.6, 0.1, 0.1, 0.1, 0.1]))
    after, step = round_(settings(errors=errors, floor=0.4), before, wrong)
    assert step.status == "worse_than_chance"
    np.testing.assert_array_equal(after.train, before.train)
    np.testing.assert_array_equal(after.selection, before.selection)


def test_many_classes_set_the_bar_of_chance_lower():
    logits = np.eye(4, dtype=np.float32)[[0, 0, 0, 0]]
    predictions = Predictions(logits, np.array([0, 0, 1, 2]), logits, np.array([0, 1, 2, 3]))
    _, two = round_(settings(errors="train"), predictions=predictions, num_labels=2)
    _, four = round_(settings(errors="train"), predictions=predictions, num_labels=4)
    assert (two.error, two.status) == (0.5, "worse_than_chance")
    assert four.status == "ok"
    assert four.alpha == pytest.approx(np.log(3))


def scores(train, held_out):
    """Predictions of 0 for these targets: the errors are the targets."""
    train, held_out = np.float32(train), np.float32(held_out)
    return Predictions(
        np.zeros((len(train), 1), np.float32),
        train,
        np.zeros((len(held_out), 1), np.float32),
        held_out,
    )


def test_regression_measures_errors_by_the_largest():
    predictions = scores([0, 0, 1, 4], [8, 8])
    after, step = round_(settings(errors="train"), predictions=predictions, num_labels=1)
    assert step.error == pytest.approx((0 + 0 + 1 / 4 + 1) / 4)
    assert after.train[3] > after.train[2] > after.train[1] == after.train[0]


def test_regression_measures_both_sets_by_one_yardstick():
    predictions = scores([0, 0, 1, 4], [0, 0, 0, 8])
    after, step = round_(settings(errors="holdout"), predictions=predictions, num_labels=1)
    assert step.error == pytest.approx(1 / 4)
    beta = (1 / 4) / (3 / 4)
    expected = beta ** (1 - np.array([0, 0, 1 / 8, 4 / 8]))
    np.testing.assert_allclose(after.train, expected / expected.sum())


def test_the_yardstick_is_that_of_the_examples_that_count():
    predictions = scores([0, 1, 2, 100], [1])
    weights = Weights(np.array([0.5, 0.25, 0.25, 0.0]), np.ones(1))
    after, step = round_(settings(errors="train"), weights, predictions, num_labels=1)
    assert step.error == pytest.approx(0.25 * 1 / 2 + 0.25)
    assert after.train[3] == 0


@pytest.mark.parametrize(
    ("loss", "middle"), [("linear", 0.5), ("square", 0.25), ("exponential", 1 - np.exp(-0.5))]
)
def test_the_loss_of_adaboost_r2_is_a_setting(loss, middle):
    config = settings(errors="train", loss=loss)
    predictions = scores([0, 0, 0, 0, 1, 2], [0])
    _, step = round_(config, predictions=predictions, num_labels=1)
    largest = 1 - np.exp(-1) if loss == "exponential" else 1
    assert step.error == pytest.approx((middle + largest) / 6)


def test_bagging_draws_a_bootstrap_sample_and_boosting_takes_the_weights_as_they_are():
    weights = Weights(np.array([0.7, 0.1, 0.1, 0.1]), np.ones(1))
    boosting = member_weight(settings(), weights, np.random.default_rng(0))
    np.testing.assert_array_equal(boosting, weights.train)
    bagging = member_weight(settings(method="bagging"), weights, np.random.default_rng(0))
    assert bagging.sum() == pytest.approx(1)
    np.testing.assert_allclose(bagging * 4, np.round(bagging * 4))
    other = member_weight(settings(method="bagging"), weights, np.random.default_rng(1))
    assert bagging.tolist() != other.tolist()
