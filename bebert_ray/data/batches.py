"""Which examples go into a batch, and how a batch is laid out.

Examples are only ever named by their index. Whatever the order of an epoch, ``batch["index"]``
says which row of the columns, and of any ``sample_weight``, each row of the batch is.
"""

from __future__ import annotations

import numpy as np
import torch

from bebert_ray.data.columns import Columns

_BATCHES_PER_BUCKET = 50
_GPU_MULTIPLE = 8  # tokens: the products of a GPU are fastest on multiples of it
_PAD_TOKEN = 0  # [PAD] in BERT's vocabulary; masked, so that no output depends on it


def epoch_batches(
    lengths: np.ndarray,
    batch_size: int,
    rng: np.random.Generator,
    sample_weight: np.ndarray | None = None,
    repeats: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Draw an epoch of n examples, and batch those of like length together.

    The order is random, except that runs of 50 batches are sorted by length before they are cut
    into batches, and the batches are shuffled again.

    Args:
        lengths: [n], tokens of each example.
        batch_size: Examples a batch; the epoch's rest makes one smaller batch.
        rng: Source of every random choice.
        sample_weight: [n] weights of any sum. When given, the epoch is n draws with
            replacement, example i with probability ``sample_weight[i] / sample_weight.sum()``;
            else each example comes once.
        repeats: [n] whole numbers. When given, example i comes ``repeats[i]`` times: a bootstrap
            sample, as it is.

    Returns:
        int64 arrays of example indices.

    Raises:
        ValueError: ``sample_weight`` has another length than ``lengths``, holds a weight that is
            negative or not finite, or no weight above 0; or both it and ``repeats`` are given.

    Examples:
        >>> batches = epoch_batches(np.array([3, 9, 4]), 2, np.random.default_rng(0))
        >>> sorted(np.concatenate(batches).tolist())
        [0, 1, 2]
    """
    n = len(lengths)
    if repeats is not None:
        if sample_weight is not None:
            raise ValueError("give sample_weight or repeats, not both")
        order = rng.permutation(np.repeat(np.arange(n), repeats))
    elif sample_weight is None:
        order = rng.permutation(n)
    else:
        weight = np.asarray(sample_weight, dtype=np.float64)
        if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
            raise ValueError("sample_weight must be finite, nowhere negative, and not all zero")
        order = rng.choice(n, size=n, p=weight / weight.sum())
    batches: list[np.ndarray] = []
    for run in _cut(order, batch_size * _BATCHES_PER_BUCKET):
        by_length = run[np.argsort(lengths[run], kind="stable")]
        batches += _cut(by_length, batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def eval_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batch every example exactly once, from the shortest to the longest.

    Args:
        lengths: [n], tokens of each example.
        batch_size: Examples a batch.

    Returns:
        int64 arrays of example indices: put logits back in order by ``logits[index] = …``.

    Examples:
        >>> [index.tolist() for index in eval_batches(np.array([3, 9, 4]), 2)]
        [[0, 2], [1]]
    """
    return _cut(np.argsort(lengths, kind="stable"), batch_size)


def pad_multiple(device: torch.device) -> int:
    """The number that batches on a device are padded to a multiple of.

    It is 1 on a CPU: there a padded token costs as much as any other, and with sentences of 12
    tokens multiples of 8 cost a quarter of a step.

    Examples:
        >>> pad_multiple(torch.device("cpu"))
        1
    """
    return _GPU_MULTIPLE if device.type == "cuda" else 1


def collate(columns: Columns, index: np.ndarray, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Lay examples out as a rectangle.

    Args:
        columns: A tokenised split.
        index: [B] rows of ``columns``.
        multiple: See ``pad_multiple``.

    Returns:
        ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 [B, L], where L is the
        longest example's length rounded up to a multiple of ``multiple``; ``labels`` [B]; ``index``
        int64 [B].

    Examples:
        >>> ids = np.array([7, 8, 8], np.int32)
        >>> two = Columns(ids, np.zeros(3, np.int8), np.array([0, 1, 3]), np.array([0, 1]))
        >>> batch = collate(two, np.array([1, 0]))
        >>> batch["attention_mask"].sum(1).tolist(), batch["input_ids"].shape[1]
        ([2, 1], 2)
    """
    start = columns.offsets[:-1][index]
    lengths = columns.offsets[1:][index] - start
    width = -(-int(lengths.max()) // multiple) * multiple
    mask = np.arange(width) < lengths[:, None]
    tokens = (start[:, None] + np.arange(width))[mask]
    input_ids = np.full(mask.shape, _PAD_TOKEN, dtype=np.int64)
    input_ids[mask] = columns.input_ids[tokens]
    token_type_ids = np.zeros(mask.shape, dtype=np.int64)
    token_type_ids[mask] = columns.token_type_ids[tokens]
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "token_type_ids": torch.from_numpy(token_type_ids),
        "labels": torch.from_numpy(columns.labels[index]),
        "index": torch.from_numpy(np.array(index, dtype=np.int64)),
    }


def _cut(index: np.ndarray, size: int) -> list[np.ndarray]:
    return [index[start : start + size] for start in range(0, len(index), size)]
