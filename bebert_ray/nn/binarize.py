"""From full precision to one bit a weight, at full width and without splitting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification
from transformers.activations import ACT2FN

from bebert_ray.nn.attention import AttentionQuantizers
from bebert_ray.nn.layers import BinaryEmbedding, BinaryLinear
from bebert_ray.nn.quantizers import activation_quantizer
from bebert_ray.nn.shape import Shape

NEVER_NEGATIVE = ("relu", "relu2", "relu6")
"""Activation functions whose output has one sign: one bit of it is 0 or 1."""


class SignedGelu(nn.Module):
    """GELU whose zeros have the sign of the input: GELU(-20) is -0 on every processor.

    Below -5.5 GELU rounds to zero in float32. Its sign decides what one bit makes of it, and torch
    gives -0 with AVX-512 and in scalar code, but +0 in vectorized code for AVX2. The gradient is
    that of GELU.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.

    Examples:
        >>> SignedGelu()(torch.full((8,), -20.0)).signbit().all()
        tensor(True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Activate values of any shape."""
        y = nn.functional.gelu(x)
        with torch.no_grad():  # only the sign of zeros changes, and the gradient does not
            y.copysign_(x)
        return y


def binarize_(
    model: BertForSequenceClassification,
    activation_bits: int,
    elastic: bool = False,
    softmax: bool = False,
    two_sets: bool = False,
) -> None:
    """Give the model binary weights and word embeddings and quantized activations, in place.

    The classifier, the position and token-type embeddings and LayerNorm stay in full precision.
    With one bit an activation and none of the options this is BiBERT; with all of them, BiT. Wider
    activations always have a learned step, a softmax and two sets.

    Args:
        model: a BERT with unquantized layers, or one that this function has changed, to change its
            activations; its weights are, or stay, the latent weights.
        activation_bits: width of every activation that enters a matrix product.
        elastic: whether one-bit activations have a learned scale and threshold.
        softmax: whether attention has a softmax before its weights are binarized to {0, 1}.
        two_sets: whether the FFN turns to ReLU, and what it puts out is binarized to {0, 1} and not
            to {-1, 1}. Of a BERT with ReLU it always is.
    """
    if activation_bits > 1:
        elastic = softmax = two_sets = True

    def binary(linear: Any, symmetric: bool = True) -> BinaryLinear:
        return BinaryLinear(linear, activation_quantizer(activation_bits, symmetric, elastic))

    bert: Any = model.bert
    bert.embeddings.word_embeddings = BinaryEmbedding(bert.embeddings.word_embeddings)
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        attention.quantizers = AttentionQuantizers(activation_bits, elastic, softmax)
        for name in ("query", "key", "value"):
            setattr(attention, name, binary(getattr(attention, name)))
        layer.attention.output.dense = binary(layer.attention.output.dense)
        layer.intermediate.dense = binary(layer.intermediate.dense)
        activation = "relu" if two_sets and activation_bits < 8 else model.config.hidden_act
        signed = activation == "gelu" and not two_sets
        layer.intermediate.intermediate_act_fn = SignedGelu() if signed else ACT2FN[activation]
        negative = not two_sets and activation not in NEVER_NEGATIVE
        layer.output.dense = binary(layer.output.dense, symmetric=negative)
    bert.pooler.dense = binary(bert.pooler.dense)
    width = Shape.of(model.config).width
    Shape(width, "binary", activation_bits, elastic, softmax, two_sets).write_to(model.config)
