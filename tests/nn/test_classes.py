"""Classes of a model and of a task, by their names."""

import pytest

from bebert_ray.nn.classes import class_order, listed

NLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (NLI, (0, 1, 2)),
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), (2, 1, 0)),
        (("LABEL_0", "LABEL_1", "LABEL_2"), (0, 1, 2)),
        (("2", "0", "1"), (1, 2, 0)),
        (("yes", "no", "maybe"), None),
        (("entailment", "entailment", "neutral"), None),
        (("entailment", "neutral"), None),
    ],
)
def test_order(names, order):
    assert class_order(names, NLI) == order


@pytest.mark.parametrize(
    ("names", "wanted", "order"),
    [
        (("-1", "1"), ("-1", "1"), (0, 1)),
        (("1", "0", "-1"), ("-1", "0", "1"), (2, 1, 0)),
        (("C", "C#", "C++"), ("C++", "C", "C#"), (2, 0, 1)),
        (("LABEL_0", "LABEL_1"), ("-1", "1"), (0, 1)),
        (("c", "c#"), ("C", "C++"), None),
        (("Very good", "not-bad"), ("not bad", "very good"), (1, 0)),
    ],
)
def test_signs_count_where_names_differ_in_nothing_else(names, wanted, order):
    assert class_order(names, wanted) == order


def test_many_names_are_cut():
    assert len(listed(["class"] * 100)) == 101
