import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.nn.layers import SplitLinear
from bebert_ray.nn.margins import (
    bits_of,
    differing,
    encoder_bits,
    half_normal_magnitudes,
    redraw_margins_,
    share_differing,
)
from bebert_ray.nn.split import split_, ternarize_


@given(count=st.integers(1, 2000), mean=st.floats(1e-4, 10))
def test_magnitudes_are_those_of_a_gaussian_of_the_mean(count, mean):
    magnitudes = half_normal_magnitudes(count, torch.tensor(mean, dtype=torch.float64))
    assert magnitudes.mean().item() == pytest.approx(mean)
    assert (magnitudes.diff() > 0).all()
    if count > 500:
        # Of |N(0, s)| with mean m, P(x < m / 10) = erf(0.1 / sqrt(pi)) = 0.0638.
        small = (magnitudes < mean / 10).double().mean().item()
        assert small == pytest.approx(0.0638, abs=0.005)


@pytest.fixture
def split(member):
    """A split model whose margins are those that splitting leaves."""
    from bebert_ray.nn.bert import copy_of

    return copy_of(member(bits=8)).eval()


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_new_margins_change_nothing_of_the_function(split, batch):
    before, bits = logits(split, batch), bits_of(split)
    latents = {name: p.clone() for name, p in split.named_parameters()}
    redraw_margins_(split, seed=1)
    assert torch.equal(logits(split, batch), before), "to the last bit"
    assert share_differing(bits, bits_of(split)) == 0
    changed = {n for n, p in split.named_parameters() if not torch.equal(p, latents[n])}
    assert changed == {
        f"{name}.weight_{half}"
        for name, module in split.named_modules()
        if isinstance(module, SplitLinear)
        for half in (1, 2)
    }


def test_the_seed_says_which_bits_are_loose(split):
    from bebert_ray.nn.bert import copy_of

    models = [copy_of(split) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        redraw_margins_(model, seed)
    one, same, other = (
        next(m for m in model.modules() if isinstance(m, SplitLinear)).weight_1 for model in models
    )
    assert torch.equal(one, same)
    loose = [w.abs() < 0.1 * w.abs().mean() for w in (one, other)]
    assert loose[0].sum() == pytest.approx(0.064 * one.numel(), rel=0.2)
    assert (loose[0] & loose[1]).sum() < 0.3 * loose[0].sum()


def test_flips_are_counted_by_layer(split):
    before = bits_of(split)
    layer = split.bert.encoder.layer[0].intermediate.dense
    with torch.no_grad():
        layer.weight_1[:4] *= -1  # of 32 rows in each half
    shares = differing(before, bits_of(split))
    name = "bert.encoder.layer.0.intermediate.dense"
    assert shares.pop(name) == 4 / 64
    assert set(shares.values()) == {0.0}
    whole = sum(map(len, before.values()))
    assert share_differing(before, bits_of(split)) == pytest.approx(
        len(before[name]) * 4 / 64 / whole
    )


def test_tables_of_embeddings_are_not_of_the_encoder(split):
    assert bits_of(split).keys() - encoder_bits(split).keys() == {"bert.embeddings.word_embeddings"}


@pytest.mark.parametrize("bits", [8, 1])
def test_bits_of_every_kind_of_member(member, bits):
    model = member(bits=bits)
    counts = {name: len(packed) for name, packed in bits_of(model).items()}
    assert all(counts.values())
    assert isinstance(bits_of(model)[next(iter(counts))], np.ndarray)


def test_a_model_without_binary_weights_has_none(member):
    model = member(bits=1)
    assert bits_of(model.classifier) == {}
    redraw_margins_(model, 0)  # nothing is split, nothing changes


def test_splitting_leaves_few_weights_that_are_near_to_flip(tiny_checkpoint):
    """Why margins are drawn anew."""
    from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder

    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, dropout=0.0)
    ternarize_(model, 8)
    split_(model)

    def near(model):
        layers = [m for m in model.modules() if isinstance(m, SplitLinear)]
        return float(
            np.mean(
                [
                    (w.abs() < 0.1 * w.abs().mean()).float().mean()
                    for m in layers
                    for w in (m.weight_1, m.weight_2)
                ]
            )
        )

    before = near(model)
    redraw_margins_(model, 0)
    assert before < 0.035 < 0.055 < near(model)
