import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.augment.words import Rules, find_words, key, replace_words, replaceable

ALL = Rules(False, False, False)


def words(*texts, rules=ALL):
    return [[word.text for word in each] for each in replaceable(texts, rules)]


@given(st.text())
def test_words_are_where_they_say_and_replacing_none_leaves_the_text(text):
    found = find_words(text)
    assert all(text[word.start : word.end] == word.text for word in found)
    assert replace_words(text, []) == text
    assert replace_words(text, [(word, word.text) for word in found]).lower() == text.lower()


def test_all_but_the_words_stays_byte_for_byte():
    text = " A\tgood  film ,it's\u00a0Fine!\n"
    new = {"good": "bad", "Fine": "dull", "film": "book"}
    replaced = [(word, new[word.text]) for word in find_words(text) if word.text in new]
    assert replace_words(text, replaced) == " A\tbad  book ,it's\u00a0Dull!\n"


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (ALL, ["In", "2019", "Anna", "was", "in", "Oslo"]),
        (Rules(True, False, False), ["In", "Anna", "was", "in", "Oslo"]),
        (Rules(False, True, False), ["In", "2019", "was", "in"]),
        (Rules(False, False, True), ["2019", "Anna", "Oslo"]),
    ],
)
def test_what_may_be_left_alone(rules, kept):
    assert words("In 2019 Anna was in Oslo", rules=rules) == [kept]


def test_a_name_is_known_by_the_other_text_of_a_pair_and_first_words_are_no_names():
    rules = Rules(True, True, False)
    assert words("Oslo is cold . Trains run", "To Oslo", rules=rules) == [
        ["is", "cold", "Trains", "run"],
        ["To"],
    ]


def test_capitals_are_kept():
    text = "USA Good x"
    pairs = list(zip(find_words(text), ["uk", "bad", "yes"], strict=True))
    assert replace_words(text, pairs) == "UK Bad yes"


def test_a_key_knows_neither_case_nor_space_nor_the_order_of_a_pair():
    assert key(["A  b\n"]) == key(["a B"]) != key(["ab"])
    assert key(["x", "y"]) == key(["Y", "x "]) != key(["x y"])
