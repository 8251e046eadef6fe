import pytest
import torch

from bebert_ray.nn.bert import load_model
from bebert_ray.packed.layers import PackedEmbedding, PackedLinear
from bebert_ray.packed.model import finalised
from bebert_ray.robustness.disturb import flipped_bits, has_bits, noisy_embeddings

BATCH = {"input_ids": torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))}


def logits(model):
    with torch.no_grad():
        return model.eval()(**BATCH).logits


def test_bits_flip_at_their_rate_within_the_context_and_are_then_as_before(run):
    model = finalised(load_model(run / "members" / "000"), "fp16")
    assert has_bits(model)
    before = logits(model)
    seen = []
    for rate in (0.0, 0.01, 0.2):
        with flipped_bits(model, rate, seed=3):
            tables = [
                signs
                for module in model.modules()
                if isinstance(module, PackedLinear | PackedEmbedding)
                for signs, _ in module.binary_weights()
            ]
            seen.append((logits(model), torch.cat([table.flatten() for table in tables])))
        assert torch.equal(logits(model), before)
    clean, few, many = (bits for _, bits in seen)
    assert torch.equal(seen[0][0], before)
    assert not torch.equal(seen[1][0], before)
    assert (few != clean).float().mean() == pytest.approx(0.01, abs=0.004)
    assert (many != clean).float().mean() == pytest.approx(0.2, abs=0.02)
    assert (many != clean)[few != clean].all()  # a greater rate flips these, and more


def test_a_model_without_binary_weights_has_no_bits(run):
    assert not has_bits(load_model(run / "teacher"))


def test_noise_is_seeded_relative_and_gone_after_the_context(run):
    model = load_model(run / "teacher")
    before, embeddings = logits(model), model.get_input_embeddings()
    clean = embeddings(BATCH["input_ids"]).detach()
    outputs = []
    for seed in (1, 1, 2):
        with noisy_embeddings(model, 0.5, seed), torch.no_grad():
            noise = embeddings(BATCH["input_ids"]) - clean
            outputs.append(logits(model))
    ratio = noise.square().mean().sqrt() / clean.square().mean().sqrt()
    assert ratio == pytest.approx(0.5, abs=0.05)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(logits(model), before)
