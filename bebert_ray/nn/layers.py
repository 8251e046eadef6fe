"""Linear and embedding layers with ternary (TWN), split binary (BWN) or centred binary weights.

`Ternary*` hold one latent weight; `Split*` hold the two latent halves that ternary weight splitting
makes of it; `Binary*` hold one latent weight of full width, for one bit.

The methods `binary_weights` (one table, or one for each half) and `ternary_weights` return what the
layer multiplies with: tables with their scales, whose products add up to the weight.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bebert_ray.nn.binary import center_binarize, signs_and_scale
from bebert_ray.nn.functions import binarize_sum, binary_weight, ternarize, ternary_weight
from bebert_ray.nn.quantizers import activation_quantizer


class TernaryLinear(nn.Module):
    """TWN: ``quantize(x) @ ternarize(weight).T + bias``, [..., inputs] to [..., outputs]."""

    def __init__(self, linear: nn.Linear, activation_bits: int, symmetric: bool = True):
        super().__init__()
        self.input_quantizer = activation_quantizer(activation_bits, symmetric)
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Project with the ternary weight."""
        return F.linear(self.input_quantizer(x), ternarize(self.weight), self.bias)

    def ternary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Levels of -1, 0 and 1, [rows, columns], and their scale, []."""
        return [ternary_weight(self.weight.detach())]


class SplitLinear(nn.Module):
    """BWN, two halves: ``quantize(x) @ (binarize(weight_1) + binarize(weight_2)).T + bias``.

    The halves share the input quantizer and the bias, so that one matrix product with the sum of
    the halves is enough.

    Source: BinaryBERT (Bai et al., 2021), section 3.1.
    """

    def __init__(self, ternary: TernaryLinear, halves: tuple[Tensor, Tensor]):
        super().__init__()
        self.input_quantizer = ternary.input_quantizer
        self.weight_1 = nn.Parameter(halves[0])
        self.weight_2 = nn.Parameter(halves[1])
        self.bias = ternary.bias

    def forward(self, x: Tensor) -> Tensor:
        """Project with the sum of the two binary weights."""
        weight = binarize_sum(self.weight_1, self.weight_2)
        return F.linear(self.input_quantizer(x), weight, self.bias)

    def binary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Of each half, where it is positive, bool [rows, columns], and its scale, []."""
        return [binary_weight(half.detach()) for half in (self.weight_1, self.weight_2)]


class TernaryEmbedding(nn.Module):
    """TWN of the rows looked up, each with its own scale: ids [...] to [..., features]."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.padding_idx = embedding.padding_idx
        self.weight = embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look the rows up and ternarize them."""
        return ternarize(F.embedding(ids, self.weight, self.padding_idx, sparse=True), per_row=True)

    def ternary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Levels of -1, 0 and 1, [rows, columns], and their scales, [rows, 1]."""
        return [ternary_weight(self.weight.detach(), per_row=True)]


class SplitEmbedding(nn.Module):
    """BWN of two rows for each id, each with its own scale, and their sum."""

    def __init__(self, ternary: TernaryEmbedding, halves: tuple[Tensor, Tensor]):
        super().__init__()
        self.padding_idx = ternary.padding_idx
        self.weight_1 = nn.Parameter(halves[0])
        self.weight_2 = nn.Parameter(halves[1])

    def forward(self, ids: Tensor) -> Tensor:
        """Look the rows of both halves up, binarize and add them."""
        first = F.embedding(ids, self.weight_1, self.padding_idx, sparse=True)
        second = F.embedding(ids, self.weight_2, self.padding_idx, sparse=True)
        return binarize_sum(first, second, per_row=True)

    def binary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Of each half, where it is positive, bool [rows, columns], and its scales, [rows, 1]."""
        halves = (self.weight_1, self.weight_2)
        return [binary_weight(half.detach(), per_row=True) for half in halves]


class BinaryLinear(nn.Module):
    """BiBERT: ``quantize(x) @ center_binarize(weight).T + bias``, each row with its own scale.

    Args:
        linear: whose weight becomes the latent weight.
        input_quantizer: of the activations.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear | BinaryLinear, input_quantizer: nn.Module):
        super().__init__()
        self.input_quantizer = input_quantizer
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Project with the binary weight."""
        return F.linear(self.input_quantizer(x), center_binarize(self.weight), self.bias)

    def binary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Signs, bool [rows, columns], and scales [rows, 1], of the weight."""
        return [signs_and_scale(self.weight.detach())]


class BinaryEmbedding(nn.Module):
    """BiBERT: rows looked up, then binarized with a scale each: ids [...] to [..., features]."""

    weight: Tensor
    padding_idx: int | None

    def __init__(self, embedding: nn.Embedding | BinaryEmbedding):
        super().__init__()
        self.padding_idx = embedding.padding_idx
        self.weight = embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look the rows up and binarize them."""
        return center_binarize(F.embedding(ids, self.weight, self.padding_idx, sparse=True))

    def binary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Signs, bool [rows, columns], and scales [rows, 1], of the table."""
        return [signs_and_scale(self.weight.detach())]
