import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.augment.copies import Replacer, make_copies
from bebert_ray.augment.vectors import make_vectors
from bebert_ray.augment.words import Rules, key
from bebert_ray.errors import UserError

WORDS = ["good", "bad", "film", "book", "plot"]
VECTORS = make_vectors(WORDS, np.random.default_rng(0).normal(size=(5, 4)), numbers=False)
REPLACER = Replacer(3, Rules(), VECTORS)

texts = st.lists(st.sampled_from([*WORDS, "Good", "the", "7"]), min_size=1, max_size=3).map(
    " ".join
)
pairs = st.tuples(texts, texts)


def copies_of(examples, **options):
    given = {"copies": 8, "probability": 0.5, "seed": 1} | options
    return make_copies(REPLACER, examples, range(len(examples)), **given)


@given(st.lists(pairs, min_size=1, max_size=4), st.lists(pairs, max_size=12))
def test_no_copy_is_a_forbidden_example_its_original_or_another_copy(examples, held_out):
    forbidden = frozenset(map(key, held_out))
    made = copies_of(examples, forbidden=forbidden)
    keys = [(copy.origin, key(copy.texts)) for copy in made]
    assert len(set(keys)) == len(keys)
    assert all(same not in forbidden for _, same in keys)
    assert all(same != key(examples[origin]) for origin, same in keys)
    # What is left out is what is forbidden, and nothing else.
    all_of_them = {(copy.origin, key(copy.texts)) for copy in copies_of(examples)}
    assert set(keys) == {each for each in all_of_them if each[1] not in forbidden}


def test_both_texts_of_a_pair_change_and_the_rest_stays():
    made = copies_of([("the good film , 7", "A bad  book !")], copies=30)
    assert len({copy.texts[0] for copy in made}) > 3
    assert len({copy.texts[1] for copy in made}) > 3
    for first, second in (copy.texts for copy in made):
        assert first.startswith("the ")
        assert first.endswith(" , 7")
        assert second.startswith("A ")
        assert second.endswith(" !")
        assert "  " in second


def test_a_word_is_replaced_with_the_probability_by_each_of_its_candidates_alike():
    made = copies_of([(" ".join(["good"] * 400),)], copies=10, probability=0.3)
    said = [word for copy in made for word in copy.texts[0].split()]
    replaced = [word for word in said if word != "good"]
    assert len(replaced) / len(said) == pytest.approx(0.3, abs=0.03)
    shares = np.unique(replaced, return_counts=True)[1] / len(replaced)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.05)


def test_a_copy_follows_from_seed_row_and_number_alone():
    examples = [("good film plot book bad",)] * 3
    alone = make_copies(REPLACER, examples[:1], [2], copies=9, probability=0.5, seed=1)
    assert alone == [copy for copy in copies_of(examples, copies=9) if copy.origin == 2]
    assert alone[:3] == [c for c in copies_of(examples, copies=3) if c.origin == 2][:3]
    assert alone != [c for c in copies_of(examples, copies=9, seed=2) if c.origin == 2]
    assert len({copy.texts for copy in copies_of(examples, copies=1)}) == 3


def test_more_candidates_than_words_are_refused():
    Replacer(4, Rules(), VECTORS).check()
    with pytest.raises(UserError, match=r"candidates: 5 is more .* there are 5 words"):
        Replacer(5, Rules(), VECTORS).check()
