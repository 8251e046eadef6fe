"""Estimates of memory against peaks that were measured."""

import pytest
from transformers import BertConfig

from bebert_ray.config import load_config
from bebert_ray.pipeline.memory import EncoderShape, member_memory, stage_memory

MINILM = EncoderShape.of(
    BertConfig(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
)
BASE = EncoderShape.of(BertConfig())
LARGE = EncoderShape.of(
    BertConfig(
        num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096
    )
)
STAGES = ("teacher", "half", "ternary")


def estimate(shape, stage, length, *overrides):
    """Of one stage: the batches of the others are made small."""
    others = [f"{name}.batch_size=1" for name in STAGES if name != stage and stage in STAGES]
    lengths = [f"data.max_length={length}", "training.eval_batch_size=32"]
    measured = ["ternary.joint=false", "member.joint=false", "ensemble.strategy=A"]
    config = load_config(None, ["task=sst2", *measured, *lengths, *others, *overrides])
    return (member_memory if stage == "member" else stage_memory)(config, shape)


@pytest.mark.parametrize(
    ("shape", "stage", "length", "overrides", "peak"),
    [  # bytes, as `pipeline.memory` says
        (MINILM, "teacher", 128, (), 2.385e9),
        (MINILM, "half", 64, (), 1.712e9),
        (MINILM, "half", 128, (), 2.785e9),
        (MINILM, "ternary", 64, (), 1.526e9),
        (MINILM, "ternary", 128, (), 2.371e9),
        (MINILM, "binary", 128, ("bits=1-1-1", "teacher.batch_size=1"), 5.270e9),
        (MINILM, "member", 64, (), 1.676e9),
        (MINILM, "member", 128, (), 2.487e9),
        (BASE, "half", 64, (), 4.785e9),
        (BASE, "half", 128, (), 8.400e9),
        (BASE, "ternary", 64, (), 4.168e9),
        (BASE, "ternary", 128, (), 6.930e9),
        (BASE, "member", 64, (), 4.570e9),
        (BASE, "member", 128, (), 7.327e9),
        (LARGE, "teacher", 64, ("teacher.batch_size=8", "training.eval_batch_size=8"), 8.480e9),
    ],
)
def test_estimates_are_never_under_and_at_most_a_quarter_over(
    shape, stage, length, overrides, peak
):
    assert peak <= estimate(shape, stage, length, *overrides) <= 1.25 * peak


def test_more_of_anything_takes_more():
    large = EncoderShape(24, 1024, 16, 4096, 31036)
    for stage in ("member", "ternary"):
        assert estimate(MINILM, stage, 64) < estimate(BASE, stage, 64) < estimate(large, stage, 64)
    batch = estimate(BASE, "member", 64, "member.batch_size=64")
    assert batch > estimate(BASE, "member", 64)
    scored = estimate(MINILM, "member", 128, "training.eval_batch_size=4096")
    assert scored > 2 * estimate(MINILM, "member", 128)
    taught = estimate(BASE, "member", 64, "ensemble.strategy=B", "data.augment.copies=4")
    assert taught > estimate(BASE, "member", 64, "ensemble.strategy=B"), "the teacher is there too"
