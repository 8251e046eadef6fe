import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.boosting.alphas import search_alphas

from .conftest import Library, libraries, make_library

ALPHAS = st.floats(0, 3).map(lambda alpha: alpha if alpha > 1e-9 else 0.0)


@given(libraries, st.lists(ALPHAS, min_size=6, max_size=6))
def test_never_worse_than_boosting_or_uniform_weights(library: Library, samme: list[float]) -> None:
    known = samme[: len(library.logits)]
    found = search_alphas(library.task, library.logits, library.labels, [known], 0, 200)
    assert found.score == library.score(found.alphas)
    # The scale of weights does not matter, but to the last bit of a correlation.
    assert found.score >= max(library.score(known), library.score(library.uniform)) - 1e-12
    assert (found.alphas >= 0).all()
    assert np.isclose(found.alphas.sum(), 1)


def test_finds_what_boosting_did_not(library: Library) -> None:
    found = search_alphas(library.task, library.logits, library.labels, [[1, 0, 0, 0]], 0)
    assert found.score > max(library.score(library.uniform), library.score([1, 0, 0, 0]))


def test_the_seed_decides(library: Library) -> None:
    one, again, other = (
        search_alphas(library.task, library.logits, library.labels, [], seed, 2000).alphas
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_tie_goes_to_the_most_even_weights() -> None:
    library = make_library("mrpc", 3, 50, seed=3)
    same = np.repeat(library.logits[:1], 3, axis=0)  # any weights score the same
    found = search_alphas(library.task, same, library.labels, [[5, 1, 1]], 0)
    np.testing.assert_allclose(found.alphas, 1 / 3)


def test_a_useless_member_is_left_with_little(library: Library) -> None:
    bad = -3 * library.logits[:1]  # confidently wrong
    logits = np.concatenate([library.logits, bad])
    found = search_alphas(library.task, logits, library.labels, [np.ones(5)], 0)
    assert found.alphas[-1] < found.alphas[:-1].mean() / 2


def test_tries_5000_weightings_a_second(library: Library) -> None:
    search_alphas(library.task, library.logits, library.labels, [], 0, 100)  # imports
    start = time.process_time()
    found = search_alphas(library.task, library.logits, library.labels, [], 0)
    assert found.evaluations > 19_000
    assert found.evaluations / (time.process_time() - start) > 5000
