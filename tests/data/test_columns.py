import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bebert_ray.data.columns import Columns, load_columns, save_columns, tokenize
from bebert_ray.data.corpus import Split


def ragged(lengths, labels=None):
    """Columns whose token ids tell the example they belong to: example i holds i*1000, i*1000+1…"""
    rows = [np.arange(length) + 1000 * i for i, length in enumerate(lengths)]
    input_ids = np.concatenate([np.empty(0), *rows]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    labels = np.arange(len(lengths)) if labels is None else labels
    return Columns(input_ids, (input_ids % 2).astype(np.int8), offsets.astype(np.int64), labels)


def same(a, b):
    for name, array in a.to_arrays().items():
        other = b.to_arrays()[name]
        assert array.dtype == other.dtype, name
        np.testing.assert_array_equal(array, other, err_msg=name)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20).flatmap(
        lambda lengths: st.tuples(
            st.just(lengths), st.lists(st.integers(0, len(lengths) - 1), max_size=30)
        )
    )
)
def test_take_is_row_by_row(case):
    lengths, index = case
    columns = ragged(lengths)
    taken = columns.take(np.array(index, dtype=np.int64))
    assert len(taken) == len(index)
    assert taken.labels.tolist() == index
    assert taken.lengths.tolist() == [lengths[i] for i in index]
    for row, i in enumerate(index):
        a, b = taken.offsets[row : row + 2]
        assert taken.input_ids[a:b].tolist() == [1000 * i + t for t in range(lengths[i])]
        np.testing.assert_array_equal(taken.token_type_ids[a:b], taken.input_ids[a:b] % 2)
    same(taken, taken.take(np.arange(len(taken))))


def test_arrays_are_not_copied_and_may_be_read_only():
    columns = ragged([2, 3])
    arrays = columns.to_arrays()
    for array in arrays.values():
        array.flags.writeable = False
    again = Columns.from_arrays(arrays)
    assert again.input_ids is columns.input_ids
    assert again.take(np.array([1])).input_ids.tolist() == [1000, 1001, 1002]


@pytest.mark.parametrize("labels", [np.array([1, 0]), np.array([0.5, 5.0], dtype=np.float32)])
def test_file_round_trip(tmp_path, labels):
    splits = {"train": ragged([2, 3], labels), "dev_matched": ragged([4], labels[:1])}
    path = tmp_path / "columns.safetensors"
    save_columns(splits, path)
    loaded = load_columns(path)
    assert set(loaded) == set(splits)
    for name, columns in splits.items():
        same(columns, loaded[name])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing unfinished is left


def test_tokens_are_the_tokenizers_own(tokenizer):
    texts = ["the food was good", "a plot", ""]
    columns = tokenize(Split((texts,), np.array([1, 0, 1])), tokenizer, 64)
    assert (columns.input_ids.dtype, columns.token_type_ids.dtype) == (np.int32, np.int8)
    assert columns.offsets.dtype == np.int64
    for i, text in enumerate(texts):
        a, b = columns.offsets[i : i + 2]
        assert columns.input_ids[a:b].tolist() == tokenizer(text)["input_ids"]
    assert columns.labels.tolist() == [1, 0, 1]
    assert not columns.token_type_ids.any()


def test_pairs_are_told_apart_and_cut_at_the_longer(tokenizer):
    long, short = "the movie was very very good and the story was bad", "not good"
    columns = tokenize(Split(([long, short], [short, long]), np.array([0, 1])), tokenizer, 10)
    assert columns.lengths.tolist() == [10, 10]
    # [CLS] 5 [SEP] 2 [SEP], and [CLS] 2 [SEP] 5 [SEP]
    assert columns.token_type_ids.tolist() == [0] * 7 + [1] * 3 + [0] * 4 + [1] * 6


def test_batching_does_not_show(tokenizer, monkeypatch):
    split = Split((["good", "the bad film", "it"] * 5, ["a", "b", "c"] * 5), np.arange(15))
    whole = tokenize(split, tokenizer, 64)
    monkeypatch.setattr("bebert_ray.data.columns._TOKENIZE_BATCH", 4)
    same(whole, tokenize(split, tokenizer, 64))


def test_texts_of_another_language_are_told(tokenizer, caplog):
    labels = np.zeros(2, np.int64)
    tokenize(Split((["the film", "жжж"],), labels), tokenizer, 16)
    assert not caplog.text
    tokenize(Split((["ъъъ ъъъ", "жжж"],), labels), tokenizer, 16)
    assert "3 of 3 tokens are unknown to the tokenizer ([UNK])" in caplog.text
