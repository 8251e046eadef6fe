"""Copies stand in for their originals, and never change what an example is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.data.columns import Columns
from bebert_ray.data.copies import Copies


def _columns(lengths: list[int], start: int) -> Columns:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(start, start + len(lengths)), lengths).astype(np.int32)
    return Columns(ids, np.zeros(len(ids), np.int8), offsets, np.arange(len(lengths)) % 2)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    counts=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_each_example_is_itself_or_a_copy_of_itself(lengths, counts, share, seed):
    examples = _columns(lengths, 0)
    origin = np.repeat(np.arange(len(lengths)), counts[: len(lengths)])
    copies = Copies(_columns([2] * len(origin), 100), origin)

    mixed = copies.mix(examples, share, np.random.default_rng(seed))

    assert np.array_equal(mixed.labels, examples.labels)
    for row in range(len(examples)):
        ids = mixed.take(np.array([row])).input_ids
        assert len(set(ids.tolist())) == 1
        if ids[0] >= 100:
            assert origin[ids[0] - 100] == row and len(ids) == 2
        else:
            assert ids[0] == row and len(ids) == lengths[row]


def test_share_1_replaces_whatever_has_a_copy_and_0_nothing():
    examples, origin = _columns([3, 3, 3], 0), np.array([0, 2, 2])
    copies = Copies(_columns([3] * 3, 100), origin)
    rng = np.random.default_rng(0)

    assert np.array_equal(copies.mix(examples, 0.0, rng).input_ids, examples.input_ids)
    first = copies.mix(examples, 1.0, rng).input_ids.reshape(3, 3)[:, 0]
    assert first[0] == 100 and first[1] == 1 and first[2] in (101, 102)


def test_the_copies_of_an_example_are_drawn_alike():
    examples, origin = _columns([1], 0), np.array([0, 0, 0])
    copies, rng = Copies(_columns([1] * 3, 100), origin), np.random.default_rng(0)

    drawn = [int(copies.mix(examples, 1.0, rng).input_ids[0]) for _ in range(600)]

    assert set(drawn) == {100, 101, 102}
    assert min(drawn.count(each) for each in set(drawn)) > 150


@given(parts=st.integers(1, 4))
def test_parts_share_no_copy_and_leave_none_out(parts):
    origin = np.array([0, 0, 0, 1, 3, 3])
    copies = Copies(_columns([1] * 6, 100), origin)

    each = [copies.part(number, parts) for number in range(parts)]

    ids = np.concatenate([part.columns.input_ids for part in each])
    assert sorted(ids.tolist()) == list(range(100, 106))
    for part in each:
        assert np.array_equal(part.origin, origin[part.columns.input_ids - 100])


def test_arrays_and_back():
    copies = Copies(_columns([1, 2], 100), np.array([0, 4]))
    again = Copies.from_arrays(copies.to_arrays())
    assert np.array_equal(again.origin, copies.origin)
    assert np.array_equal(again.columns.input_ids, copies.columns.input_ids)
