"""What the members of an ensemble add to its vote, for searches over cached logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bebert_ray.boosting.vote import combine
from bebert_ray.data.metrics import Floats


def outputs_of(logits: NDArray[np.float32]) -> Floats:
    """What each member adds to the vote, [M, K, n]: see `bebert_ray.boosting.vote.combine`.

    Args:
        logits: Of M members, [M, n, K].
    """
    return np.stack([combine(one[None], [1.0]).T for one in logits])
