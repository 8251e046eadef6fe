import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.data.holdout import split_holdout, subsample
from bebert_ray.errors import UserError

LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=80).map(np.array)


@given(LABELS, st.floats(0.01, 0.99), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_two_parts_make_the_whole(labels, fraction, is_regression, seed):
    train, held_out = split_holdout(labels, fraction, is_regression, seed)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert train.tolist() == sorted(train)
    assert held_out.tolist() == sorted(held_out)
    assert len(train) > 0
    assert len(held_out) == min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    assert train.dtype == held_out.dtype == np.int64


def test_classes_keep_their_shares():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    train, held_out = split_holdout(labels, 0.1, False, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [70, 20, 10]
    assert np.bincount(labels[train]).tolist() == [630, 180, 90]


def test_a_class_too_small_to_stratify():
    labels = np.array([0] * 50 + [1])
    assert len(split_holdout(labels, 0.2, False, seed=0)[1]) == 10


def test_the_seed_decides():
    labels = np.arange(1000) % 2
    same = [split_holdout(labels, 0.1, False, seed)[1].tolist() for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_one_example_is_too_few():
    with pytest.raises(UserError, match="out of 1 training examples"):
        split_holdout(np.array([1]), 0.1, False, 0)


@given(LABELS, st.integers(1, 100), st.booleans())
def test_subsample_keeps_order_and_size(labels, count, is_regression):
    index = subsample(labels, count, is_regression, seed=0)
    assert len(index) == min(count, len(labels))
    assert np.all(np.diff(index) > 0)


def test_subsample_of_scores():
    scores = np.linspace(0, 5, 200, dtype=np.float32)
    assert len(subsample(scores, 20, True, seed=0)) == 20
