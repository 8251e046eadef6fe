from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.boosting.cascade import answers, choose
from bebert_ray.boosting.vote import combine, staged


def made(seed: int, members: int = 3, n: int = 50) -> tuple[np.ndarray, np.ndarray, list[float]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    logits = rng.normal(size=(members, n, 2)) * 2
    logits[:, np.arange(n), labels] += 1
    return logits, labels, rng.random(members).tolist()


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_text_has_the_vote_of_the_members_that_were_asked(seed: int, threshold: float) -> None:
    logits, _, alphas = made(seed)
    scores, asked = answers(logits, alphas, threshold)
    stages = staged(logits, alphas)
    for i, count in enumerate(asked):
        np.testing.assert_allclose(scores[i], stages[count - 1][i])
        assert all(stages[m][i].max() < threshold + 1e-12 for m in range(count - 1))
        assert count == 3 or stages[count - 1][i].max() >= threshold - 1e-12


def test_the_ends() -> None:
    logits, _, alphas = made(0)
    scores, asked = answers(logits, alphas, np.inf)
    np.testing.assert_allclose(scores, combine(logits, alphas))
    assert (asked == 3).all()
    scores, asked = answers(logits, alphas, 0.0)
    np.testing.assert_allclose(scores, combine(logits[:1], alphas[:1]))
    assert (asked == 1).all()


def test_members_of_weight_0_are_not_asked() -> None:
    logits, _, _ = made(0)
    scores, asked = answers(logits, [1.0, 0.0, 2.0], np.inf)
    assert (asked == 2).all()
    np.testing.assert_allclose(scores, combine(logits, [1.0, 0.0, 2.0]))


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05]))
def test_the_held_out_score_falls_by_no_more_than_was_said(seed: int, loss: float) -> None:
    logits, labels, alphas = made(seed)

    def accuracy(scores: np.ndarray) -> float:
        return float((scores.argmax(1) == labels).mean())

    cascade = choose(logits, alphas, accuracy, loss)
    scores, asked = answers(logits, alphas, cascade.threshold)
    assert accuracy(scores) >= accuracy(combine(logits, alphas)) - loss - 1e-12
    assert asked.mean() == pytest.approx(cascade.members)
    assert cascade.members <= choose(logits, alphas, accuracy, 0.0).members


def test_sure_members_are_told_apart_as_a_model_tells_them() -> None:
    logits, labels, alphas = made(1)
    for scale in (1, 20, 200):  # in float32 many confidences are 1
        sure = (logits * scale).astype(np.float32)
        cascade = choose(sure, alphas, lambda scores: float((scores.argmax(1) == labels).mean()))
        assert np.float32(cascade.threshold) == cascade.threshold
        _, asked = answers(sure, alphas, cascade.threshold)
        confidence = torch.from_numpy(sure[0]).softmax(-1).amax(-1)
        assert ((asked > 1) == (confidence < cascade.threshold).numpy()).mean() > 0.99


def test_members_that_agree_are_asked_for_nothing() -> None:
    logits, labels, _ = made(0, members=1)
    cascade = choose(
        np.concatenate([logits] * 3), [1.0] * 3, lambda s: float((s.argmax(1) == labels).mean())
    )
    assert cascade.members == 1


def test_a_second_member_that_corrects_unsure_answers_is_asked_for_those() -> None:
    first = np.array([[3.0, 0.0]] * 8 + [[0.1, 0.0]] * 2)
    second = np.array([[3.0, 0.0]] * 8 + [[0.0, 3.0]] * 2)
    labels = np.array([0] * 8 + [1] * 2)
    cascade = choose([first, second], [1.0, 1.0], lambda s: float((s.argmax(1) == labels).mean()))
    assert cascade.members == pytest.approx(1.2)
