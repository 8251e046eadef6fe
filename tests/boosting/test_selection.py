import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.boosting.selection import select

from .conftest import Library, libraries, make_library


@given(libraries, st.integers(1, 5))
def test_no_model_alone_is_better_and_there_are_not_too_many(library: Library, size: int) -> None:
    counts = select(library.task, library.logits, library.labels, size)
    assert 1 <= (counts > 0).sum() <= size
    alone = [library.score(np.eye(len(counts))[m]) for m in range(len(counts))]
    assert library.score(counts) >= max(alone) - 1e-9


def test_models_that_err_apart_are_taken_together() -> None:
    labels = np.arange(60) % 2
    sure = np.where(np.eye(2)[labels] > 0, 2.0, 0.0)
    logits = np.tile(sure, (4, 1, 1))
    for m in range(3):  # each is wrong, and in doubt, on a sixth of its own
        logits[m, 10 * m : 10 * m + 10] = 0.5 * sure[10 * m : 10 * m + 10, ::-1]
    logits[3, :29] = sure[:29, ::-1]  # wrong on half
    library = Library(make_library("mrpc", 1, 2, 0).task, logits, labels)
    counts = select(library.task, logits, labels, size=3)
    assert library.score(counts) == 1
    assert counts[3] == 0


def test_a_model_may_count_more_than_once() -> None:
    library = make_library("stsb", 4, 200, seed=0)
    better = library.labels[:, None] + 0.4 * (library.logits[:1] - library.labels[:, None])
    logits = np.concatenate([better, library.logits[1:]])
    counts = select(library.task, logits, library.labels, size=4)
    assert counts[0] > counts[1:].max() >= 1


def test_of_models_that_do_as_well_the_first_is_taken() -> None:
    library = make_library("mrpc", 1, 40, seed=0)
    logits = np.repeat(library.logits, 3, axis=0)
    assert select(library.task, logits, library.labels, size=2).tolist() == [1, 0, 0]


def test_what_cannot_be_selected() -> None:
    library = make_library("mrpc", 2, 10, seed=0)
    with pytest.raises(ValueError, match="no ensemble of 0 can be selected from 2 models"):
        select(library.task, library.logits, library.labels, 0)
    with pytest.raises(ValueError, match="from 0 models"):
        select(library.task, library.logits[:0], library.labels, 2)
