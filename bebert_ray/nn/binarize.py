"""From full precision to one bit a weight, at full width and without splitting."""

from __future__ import annotations

from typing import Any

from transformers import BertForSequenceClassification
from transformers.activations import ACT2FN

from bebert_ray.nn.attention import AttentionQuantizers
from bebert_ray.nn.layers import BinaryEmbedding, BinaryLinear
from bebert_ray.nn.quantizers import activation_quantizer
from bebert_ray.nn.shape import Shape


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
            to {-1, 1}.
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
        layer.intermediate.intermediate_act_fn = ACT2FN[activation]
        layer.output.dense = binary(layer.output.dense, symmetric=not two_sets)
    bert.pooler.dense = binary(bert.pooler.dense)
    width = Shape.of(model.config).width
    Shape(width, "binary", activation_bits, elastic, softmax, two_sets).write_to(model.config)
