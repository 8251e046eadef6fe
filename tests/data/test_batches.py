import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.data.batches import collate, epoch_batches, eval_batches
from bebert_ray.data.columns import Columns

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 12)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)


def signed(lengths):
    """Columns in which every token of example i is i + 1, and its label is i."""
    n = len(lengths)
    input_ids = np.repeat(np.arange(n, dtype=np.int32) + 1, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Columns(input_ids, np.ones(len(input_ids), np.int8), offsets, np.arange(n))


def padding(lengths, batches):
    """Share of the positions that hold no token."""
    positions = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - sum(lengths[batch].sum() for batch in batches) / positions


@given(LENGTHS, SIZES, SEEDS)
def test_every_example_once(lengths, batch_size, seed):
    batches = epoch_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(batch.dtype == np.int64 for batch in batches)
    sizes = sorted(len(batch) for batch in batches)
    assert len(sizes) == -(-len(lengths) // batch_size)
    assert all(size == batch_size for size in sizes[1:])


@given(LENGTHS, SIZES, SEEDS, st.data())
def test_shuffling_cannot_change_which_example_gets_which_weight(lengths, batch_size, seed, data):
    """By whatever order and draws, row r of a batch holds the tokens of example ``index[r]``.

    Weights and tokens are both looked up by that index, so the weight of a row is its example's.
    """
    columns = signed(lengths)
    n = len(columns)
    sample_weight = np.random.default_rng(seed).permutation(n) + 1.0  # no two the same
    weight_of_token = {example + 1: weight for example, weight in enumerate(sample_weight)}
    drawn = data.draw(st.sampled_from([None, sample_weight]))
    for index in epoch_batches(columns.lengths, batch_size, np.random.default_rng(seed), drawn):
        batch = collate(columns, index)
        assert batch["index"].tolist() == batch["labels"].tolist() == index.tolist()
        for row, weight in enumerate(sample_weight[batch["index"].numpy()]):
            tokens = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
            assert {weight_of_token[token] for token in tokens} == {weight}


@given(LENGTHS, SIZES, SEEDS, st.booleans())
def test_same_seed_same_epoch(lengths, batch_size, seed, weighted):
    weight = lengths / lengths.sum() if weighted else None
    first, second = (
        epoch_batches(lengths, batch_size, np.random.default_rng(seed), weight) for _ in range(2)
    )
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_epochs_differ():
    rng = np.random.default_rng(0)
    lengths = np.arange(1, 101)
    first, second = (np.concatenate(epoch_batches(lengths, 8, rng)) for _ in range(2))
    assert first.tolist() != second.tolist()


def test_draws_follow_the_weights():
    n = 1000
    weight = np.arange(n, dtype=float)  # of any sum, and example 0 never
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, n)
    draws = np.concatenate([i for _ in range(200) for i in epoch_batches(lengths, 32, rng, weight)])
    assert len(draws) == 200 * n
    counts = np.bincount(draws, minlength=n)
    assert counts[0] == 0
    expected = len(draws) * weight / weight.sum()
    # A chi-squared statistic of n - 2 degrees of freedom: its mean, give or take 5 deviations.
    statistic = np.sum((counts[1:] - expected[1:]) ** 2 / expected[1:])
    assert abs(statistic - (n - 2)) < 5 * np.sqrt(2 * (n - 2))


@pytest.mark.parametrize(
    "weight", [np.ones(3), np.array([2.0, -1.0]), np.array([np.nan, 1.0]), np.zeros(2)]
)
def test_impossible_weights(weight):
    with pytest.raises(ValueError):
        epoch_batches(np.array([3, 4]), 2, np.random.default_rng(0), weight)


def test_buckets_save_padding_and_stay_random():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 65, 5000)
    plain = [batch for batch in np.array_split(rng.permutation(5000), 157)]
    bucketed = epoch_batches(lengths, 32, rng)
    assert padding(lengths, bucketed) < 0.1 < 0.4 < padding(lengths, plain)
    # Long batches do not all come late: the mean length of a batch does not grow with its place.
    means = [lengths[batch].mean() for batch in bucketed]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@given(LENGTHS, SIZES)
def test_evaluation_takes_each_once_from_short_to_long(lengths, batch_size):
    order = np.concatenate(eval_batches(lengths, batch_size))
    assert sorted(order) == list(range(len(lengths)))
    assert np.all(np.diff(lengths[order]) >= 0)


@given(LENGTHS, SEEDS, st.sampled_from([1, 8]))
def test_collate_against_the_obvious(lengths, seed, multiple):
    columns = signed(lengths)
    index = np.random.default_rng(seed).integers(0, len(lengths), 7)
    batch = collate(columns, index, multiple)
    width = batch["input_ids"].shape[1]
    assert width % multiple == 0
    assert 0 <= width - lengths[index].max() < multiple
    for row, i in enumerate(index):
        pad = [0] * (width - lengths[i])
        assert batch["input_ids"][row].tolist() == [i + 1] * lengths[i] + pad
        assert batch["attention_mask"][row].tolist() == [1] * lengths[i] + pad
        assert batch["token_type_ids"][row].tolist() == [1] * lengths[i] + pad


def test_collate_takes_read_only_arrays_and_gives_its_own():
    columns = signed(np.array([3, 9]))
    for array in columns.to_arrays().values():
        array.flags.writeable = False
    index = np.array([1, 0])
    batch = collate(columns, index)
    names = ("input_ids", "attention_mask", "token_type_ids", "labels", "index")
    assert tuple(batch) == names
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    for tensor in batch.values():
        tensor.zero_()
    assert columns.input_ids.all()
    assert index.tolist() == [1, 0]


def test_scores_stay_floats():
    columns = signed(np.array([3]))
    arrays = columns.to_arrays() | {"labels": np.array([2.5], dtype=np.float32)}
    labels = collate(Columns.from_arrays(arrays), np.array([0]))["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [2.5]


def test_an_epoch_has_a_bootstrap_sample_as_it_is():
    """A bootstrap leaves 37 % out; draws from it would leave out another 37 % each epoch."""
    rng = np.random.default_rng(0)
    repeats = np.bincount(rng.integers(200, size=200), minlength=200)
    lengths = rng.integers(3, 20, size=200)
    for epoch in range(2):
        batches = epoch_batches(lengths, 8, np.random.default_rng(epoch), repeats=repeats)
        found = np.bincount(np.concatenate(batches), minlength=200)
        np.testing.assert_array_equal(found, repeats)
    with pytest.raises(ValueError, match="not both"):
        epoch_batches(lengths, 8, rng, np.full(200, 1 / 200), repeats)
