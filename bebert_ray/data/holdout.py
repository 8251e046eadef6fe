"""Seeded, stratified choices among training examples."""

from __future__ import annotations

import numpy as np

from bebert_ray.errors import UserError


def split_holdout(
    labels: np.ndarray, fraction: float, is_regression: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold a part of train out, on which every choice is made.

    Args:
        labels: [n], class indices or scores.
        fraction: Share to hold out, between 0 and 1; at least one example falls on each side.
        is_regression: Scores are not stratified; classes are, unless one is too small for it.
        seed: Same seed, same split.

    Returns:
        Indices to train on and indices held out, int64 and each ascending.

    Raises:
        UserError: There are fewer than two examples.

    Examples:
        >>> train, held_out = split_holdout(np.array([0, 0, 0, 1, 1, 1]), 0.3, False, seed=1)
        >>> len(train), len(held_out)
        (4, 2)
    """
    n = len(labels)
    if n < 2:
        raise UserError(f"cannot hold a part out of {n} training examples; give two or more")
    count = min(max(round(fraction * n), 1), n - 1)
    held_out = subsample(labels, count, is_regression, seed)
    return np.setdiff1d(np.arange(n), held_out), held_out


def subsample(labels: np.ndarray, count: int, is_regression: bool, seed: int) -> np.ndarray:
    """Choose ``count`` of the examples, at random but in their classes' proportions.

    Returns:
        Indices [min(count, n)], int64, ascending, so that the examples keep their order.

    Examples:
        >>> labels = np.array([0, 0, 1, 1])
        >>> labels[subsample(labels, 2, False, seed=1)].tolist()
        [0, 1]
    """
    from sklearn.model_selection import train_test_split

    n = len(labels)
    if count >= n:
        return np.arange(n)
    stratify = labels if not is_regression and _can_stratify(labels, count) else None
    chosen, _ = train_test_split(
        np.arange(n), train_size=count, stratify=stratify, random_state=seed
    )
    return np.sort(chosen)


def _can_stratify(labels: np.ndarray, count: int) -> bool:
    """What scikit-learn asks: two of each class, and room for each class on both sides."""
    sizes = np.unique(labels, return_counts=True)[1]
    return bool(sizes.min() >= 2 and min(count, len(labels) - count) >= len(sizes))
