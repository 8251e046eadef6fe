import pytest

from bebert_ray.errors import UserError
from bebert_ray.robustness.suites import SUITES, parse_suites


def test_all_suites_are_the_default_and_strengths_can_be_given():
    assert parse_suites([]) == list(SUITES.values())
    typos, noise = parse_suites(["typos=0.3,0.1,0.3", "embeddings=2"])
    assert (typos.strengths, noise.strengths) == ((0.1, 0.3), (2.0,))
    [typos] = parse_suites(["typos=0.2", "typos=0.1"])
    assert typos.strengths == (0.1, 0.2)
    assert parse_suites(["bits"])[0].strengths[-1] == 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("typo", r"no such suite; did you mean typos\? There are typos, replace"),
        ("zzz", r"no such suite. There are"),
        ("typos=", "a strength is a number above 0 and at most 1"),
        ("typos=0", "give such as --suite typos=0.05,0.1,0.2,0.4"),
        ("bits=1.5", "at most 1"),
        ("embeddings=inf", r"a number above 0 \(noise"),
        ("typos=nan", "a strength is"),
        ("typos=a,b", "a strength is"),
    ],
)
def test_a_suite_or_strength_that_does_not_exist(text, message):
    with pytest.raises(UserError, match=message):
        parse_suites([text])
