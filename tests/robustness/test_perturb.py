import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.robustness.perturb import TEXT, case, delete, order, truncate, typos, unicode

TEXT_OF_MANY = " ".join(["Reading", "books", "all", "day", "is", "fine"] * 200)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", TEXT)
@given(text=st.text(), strength=st.floats(0, 1))
def test_any_text_can_be_disturbed_and_the_same_seed_gives_the_same(name, text, strength):
    disturbed = TEXT[name](text, strength, rng())
    assert disturbed == TEXT[name](text, strength, rng())
    assert bool(disturbed.split()) == bool(text.split())  # something is left


@pytest.mark.parametrize("name", TEXT)
def test_nothing_happens_at_strength_0_and_more_at_greater_ones(name):
    words = TEXT_OF_MANY.split()
    assert TEXT[name](TEXT_OF_MANY, 0.0, rng()).split() == words
    changed = [
        len(words) - sum(a == b for a, b in zip(words, again, strict=False))
        for again in (TEXT[name](TEXT_OF_MANY, s, rng()).split() for s in (0.05, 0.2, 0.5))
    ]
    assert 0 < changed[0] < changed[1] or name in ("delete", "truncate")


def test_a_typo_is_one_error_in_a_share_of_the_words():
    words = TEXT_OF_MANY.split()
    again = typos(TEXT_OF_MANY, 0.25, rng()).split()
    assert len(again) == len(words)
    pairs = [(a, b) for a, b in zip(words, again, strict=True) if a != b]
    assert len(pairs) / len(words) == pytest.approx(0.25, abs=0.05)
    assert {len(b) - len(a) for a, b in pairs} == {-1, 0, 1}
    swapped = [(a, b) for a, b in pairs if len(a) == len(b) and sorted(a) == sorted(b)]
    keyed = [(a, b) for a, b in pairs if len(a) == len(b) and sorted(a) != sorted(b)]
    assert swapped
    assert all(sum(x != y for x, y in zip(a, b, strict=True)) == 1 for a, b in keyed)


def test_words_are_deleted_swapped_and_cut():
    words = TEXT_OF_MANY.split()
    assert len(delete(TEXT_OF_MANY, 0.3, rng()).split()) == pytest.approx(840, abs=50)
    assert delete("one two", 1.0, rng()) == "one"
    assert sorted(order(TEXT_OF_MANY, 0.5, rng()).split()) == sorted(words)
    assert order("one two", 1.0, rng()) == "two one"
    assert truncate("a b  c d", 0.25, rng()) == "a b  c"
    assert truncate("a b", 1.0, rng()) == "a"
    assert truncate("a b c d e f g h i j", 0.1, rng()) == "a b c d e f g h i"


def test_case_and_lookalikes_keep_what_is_read():
    assert case(TEXT_OF_MANY, 0.3, rng()).lower() == TEXT_OF_MANY.lower()
    odd = unicode("case", 1.0, rng())
    assert odd != "case"
    assert not set("case") & {letter for letter in odd if not letter.isascii()}
    assert all(ord(letter) > 127 or letter in "case" for letter in odd)
    assert unicode("12, 3!", 1.0, rng()) == "12, 3!"
