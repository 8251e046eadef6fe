"""How much memory a process needs that trains a stage or a member: an estimate from shapes.

    peak = MARGIN * (BASE + weights + moments + best weights + gradients + activations
                     + the teaching model)

Numbers are float32. A layer of width w has ``4 w h^2 + 2 w h f`` weights (h hidden units, f FFN
neurons); a split model has twice as many as a ternary one, embeddings included. Adam has two
moments a weight. From the second epoch on, the weights of the best epoch are kept beside those in
use. A distillation holds the teaching model too. A training step keeps for its backward pass

    tokens * layers * ((o + i w) h + s w a L)

numbers, with a heads and L tokens an example, where o, i and s (`_Kept`) depend on what is trained;
they count what the allocator loses between tensors as well. Gradients come as activations go, but
those of large matrices find no room where smaller activations were: all count but those of the
embeddings, which are sparse. Scoring keeps one layer alone, of `eval_batch_size` examples.

The constants were fitted to peaks of resident memory (`ru_maxrss`) of processes that each trained
two steps of 32 examples of full length, on one thread of an x86 CPU with AVX2, in fp32, with torch
2.13 and the allocator's settings of `cluster.worker.ENVIRONMENT`. The models had the shapes of
MiniLM-L6 and BERT-base, and random weights; 64 and 128 tokens. A teacher of the shape of bert-large
(batches of 8, 64 tokens, two epochs) was measured beside them. bf16 takes less; on a GPU this is
more than the process needs of the machine's own memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import BertConfig

from bebert_ray.config import Config
from bebert_ray.config.recipes import kind_of

BASE = 0.63e9  # Python with torch, transformers and Ray
MARGIN = 1.04
FLOAT = 4  # bytes


@dataclass(frozen=True)
class EncoderShape:
    """The shape of an encoder: counts of layers, hidden units, heads and so on.

    Attributes:
        layers: transformer layers.
        hidden: hidden units, h.
        heads: attention heads, a.
        neurons: FFN neurons, f.
        rows: of the embedding tables together: words, positions, kinds of tokens.
    """

    layers: int
    hidden: int
    heads: int
    neurons: int
    rows: int

    @classmethod
    def of(cls, config: BertConfig) -> EncoderShape:
        """The shape that a checkpoint's configuration tells.

        Examples:
            >>> EncoderShape.of(BertConfig()).layers
            12
        """
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.vocab_size + config.max_position_embeddings + config.type_vocab_size,
        )

    def weights(self, width: float) -> float:
        """Bytes of an encoder with so much of its heads and neurons."""
        layer = width * (4 * self.hidden**2 + 2 * self.hidden * self.neurons)
        return FLOAT * (self.rows * self.hidden + self.layers * layer)

    def gradients(self, width: float) -> float:
        """The share of the weights whose gradients are held: all but those of the embeddings."""
        return 1 - FLOAT * self.rows * self.hidden / self.weights(width)


@dataclass(frozen=True)
class _Kept:
    """Numbers that a step keeps of a token in a layer.

    Attributes:
        outer: for each hidden unit.
        inner: for each hidden unit, at full width: projections and FFN.
        scores: for each attention score, that is for each head and token of the example.
    """

    outer: float
    inner: float
    scores: float

    def bytes(self, shape: EncoderShape, width: float, batch_size: int, length: int) -> float:
        """Of a batch of full length."""
        units = (self.outer + self.inner * width) * shape.hidden
        scores = self.scores * width * shape.heads * length
        return FLOAT * batch_size * length * shape.layers * (units + scores)


_PLAIN = _Kept(7.1, 12.3, 5.0)
_DISTILLED = _Kept(18.2, 31.6, 7.6)  # full precision, with the hidden states of a teacher
_QUANTIZED = _Kept(15.5, 26.6, 4.7)
_MATCHED = {  # quantized, with what of a teacher's layers is matched
    "scores": _Kept(15.5, 26.6, 5.9),
    "directions": _Kept(15.5, 26.6, 17.9),
}
_SCORED = _Kept(8.0, 12.0, 3.0)  # of one layer, without a backward pass


def stage_memory(config: Config, shape: EncoderShape) -> float:
    """Bytes that the most demanding of the shared stages needs.

    Args:
        config: of a run; its batch sizes and longest length count.
        shape: of the encoder.
    """
    needs = [_scoring(config, shape, shape.weights(1.0))]
    full = shape.weights(1.0)
    for stage in kind_of(config).stages:
        if stage.section is None:
            continue
        narrow = shape.weights(stage.width)
        # Processes that train together share each batch.
        size = math.ceil(stage.section.batch_size / config.resources.stage_workers)
        if stage.recipe == "teacher":
            needs.append(_fit(config, shape, _PLAIN, 1.0, size, full))
        elif stage.recipe == "half":
            needs.append(_fit(config, shape, _DISTILLED, stage.width, size, narrow, full))
        else:
            joint = getattr(stage.section, "joint", False)
            needs.append(_quantized(config, shape, size, narrow, narrow, stage.width, joint))
    return max(needs)


def member_memory(config: Config, shape: EncoderShape) -> float:
    """Bytes that a member needs; see `stage_memory`."""
    kind = kind_of(config)
    width = max([config.width, *(stage.width for stage in kind.rivals)])
    narrow, size = shape.weights(width), config.member.batch_size
    weights = narrow * (2 if kind.trunks[0].start == "split" else 1)
    strategy, copies = config.ensemble.strategy, config.data.augment.copies
    if strategy == "B" and copies:  # the teacher scores each batch, as it is not known before
        step = _fit(config, shape, _QUANTIZED, width, size, weights, narrow)
    else:
        teacher = narrow if strategy == "C" else 0.0
        step = _quantized(config, shape, size, weights, teacher, width, config.member.joint)
    return max(step, _scoring(config, shape, weights))


def _quantized(
    config: Config,
    shape: EncoderShape,
    batch_size: int,
    weights: float,
    teacher: float,
    width: float,
    joint: bool,
) -> float:
    """A quantized model, first with a teacher, unless that is 0; no best epoch, unless `joint`."""
    alone = _fit(config, shape, _QUANTIZED, width, batch_size, weights)
    if not teacher:
        return alone
    kept = _MATCHED[kind_of(config).match]
    taught = _fit(config, shape, kept, width, batch_size, weights, teacher, best=joint)
    return max(alone, taught)


def _fit(
    config: Config,
    shape: EncoderShape,
    kept: _Kept,
    width: float,
    batch_size: int,
    weights: float,
    teacher: float = 0.0,
    best: bool = True,
) -> float:
    copies = (4 if best else 3) + shape.gradients(width)  # the weights, two moments
    step = kept.bytes(shape, width, batch_size, config.data.max_length)
    return MARGIN * (BASE + copies * weights + teacher + step)


def _scoring(config: Config, shape: EncoderShape, weights: float) -> float:
    """Between two epochs: weights, moments and best weights are there, and one layer's numbers."""
    layer = _SCORED.bytes(shape, 1.0, config.training.eval_batch_size, config.data.max_length)
    return MARGIN * (BASE + 4 * weights + layer / shape.layers)
