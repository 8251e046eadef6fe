"""What a quantized BERT differs in from the BERT that transformers knows, as one typed value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from transformers import BertConfig

from bebert_ray.errors import UserError

Weights = Literal["full", "ternary", "split", "binary"]
"""How weights are quantized: not, to three values, to two binary halves, or to one bit."""

ALWAYS = ("width", "weights", "activation_bits")
BINARY_ONLY = ("elastic", "softmax", "two_sets")


@dataclass(frozen=True)
class Shape:
    """The quantization and the width of a BERT. All else is in its `BertConfig`.

    Attributes:
        width: fraction of the heads and of the FFN neurons that each layer has, in (0, 1].
        weights: how weights are quantized.
        activation_bits: bits of an activation that enters a matrix product; None in full precision.
        elastic: whether one-bit activations have a learned scale and threshold (BiT).
        softmax: whether attention has a softmax before its weights are binarized.
        two_sets: whether the FFN's outputs are binarized to {0, 1} and not to {-1, 1}.

    The last three are settings of `weights="binary"`, and are not stored for other weights.

    Examples:
        >>> config = BertConfig()
        >>> Shape.of(config)  # a plain BERT
        Shape(width=1.0, weights='full', activation_bits=None, ...)
        >>> Shape(0.5, "split", 4).write_to(config)
        >>> config.weights, Shape.of(config).activation_bits
        ('split', 4)
    """

    width: float = 1.0
    weights: Weights = "full"
    activation_bits: int | None = None
    elastic: bool = False
    softmax: bool = False
    two_sets: bool = False

    def __post_init__(self) -> None:
        bits = self.activation_bits
        for name, fits, wanted in (
            ("width", _is_number(self.width) and 0 < self.width <= 1, "a number in (0, 1]"),
            ("weights", self.weights in get_args(Weights), f"one of {get_args(Weights)}"),
            (
                "activation_bits",
                bits is None
                if self.weights == "full"
                else isinstance(bits, int) and not isinstance(bits, bool) and 1 <= bits <= 16,
                "null in full precision, else an integer from 1 to 16",
            ),
            *((name, isinstance(getattr(self, name), bool), "a boolean") for name in BINARY_ONLY),
        ):
            if not fits:
                raise UserError(
                    f"config.json: {name} is {str(getattr(self, name))[:40]!r}, not {wanted}"
                )

    @classmethod
    def of(cls, config: BertConfig) -> Shape:
        """Read the shape that a configuration holds. One without any of it is a plain BERT.

        Raises:
            UserError: a setting is missing or does not fit; the message names it.
        """
        found = {name: getattr(config, name) for name in ALWAYS if hasattr(config, name)}
        if not found:
            return cls()
        names = ALWAYS + BINARY_ONLY if found.get("weights") == "binary" else ALWAYS
        for name in names:
            if not hasattr(config, name):
                raise UserError(f"config.json: the setting {name} of a quantized BERT is missing")
        return cls(**{name: getattr(config, name) for name in names})

    def write_to(self, config: BertConfig) -> None:
        """Store the shape in a configuration, as attributes, which `config.json` then holds."""
        names = ALWAYS + BINARY_ONLY if self.weights == "binary" else ALWAYS
        values: dict[str, Any] = asdict(self)
        for name in names:
            setattr(config, name, values[name])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
