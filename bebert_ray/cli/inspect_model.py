"""`bebert inspect`, and `jobs/inspect_model.py`: show what a packed model costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from bebert_ray.cli.common import consoles, make_parser
from bebert_ray.errors import UserError

DESCRIPTION = """\
Show what an ensemble of binary BERTs costs: bits, bytes, multiplications and bit operations, layer
by layer and in all, against the full-precision model. For a packed model, or the run that made it;
or, with --config, for one that is not trained yet: from shapes alone, without weights.
exit code: 0 shown, 2 something in the input is wrong"""

EXAMPLES = """\
  bebert inspect runs/mrpc
  bebert inspect runs/mrpc/model --json
  bebert inspect --config mrpc --model-size bert-base ensemble.members=2
  bebert inspect --config mrpc bits=1-1-1 --tokens 64"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Count, and print."""
    parser = make_parser(DESCRIPTION, EXAMPLES, prog)
    parser.add_argument("--config", metavar="FILE", help="YAML file of a run")
    parser.add_argument(
        "what",
        nargs="*",
        metavar="DIR | key.sub=value",
        help="a packed model or a run: a path, or a URI such as s3://…; with --config, keys to set",
    )
    parser.add_argument(
        "--model-size",
        choices=("bert-base", "bert-large"),
        help="with --config: count for a BERT of this size instead of the checkpoint `model` names",
    )
    parser.add_argument(
        "--tokens", type=int, help="length of a sentence (default: data.max_length)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_intermixed_args(arguments)
    if flags.tokens is not None and flags.tokens < 1:
        parser.error("--tokens must be at least 1")
    if flags.config is None:
        if len(flags.what) != 1 or flags.model_size:
            parser.error("give one directory, or --config FILE; --help shows examples")
        from bebert_ray.packed.load import read_summary

        summary = read_summary(flags.what[0], flags.tokens)
    else:
        summary = _of_config(flags)
    if flags.json:
        print(json.dumps(summary.to_dict()), flush=True)
    else:
        from bebert_ray.packed.summary import print_summary

        print_summary(summary, consoles(flags)[0])


def _of_config(flags: argparse.Namespace) -> Any:
    from bebert_ray.config import load_config

    config = load_config(flags.config, flags.what)
    if config.export.remainder == "none":
        raise UserError("export.remainder: none packs no model; give fp16 or fp32")

    from transformers import BertConfig

    from bebert_ray.data.tasks import TASKS
    from bebert_ray.nn.checkpoint import find_checkpoint
    from bebert_ray.packed.quantizer import FLOAT_BITS
    from bebert_ray.packed.summary import summarize
    from bebert_ray.pipeline.costs import MODEL_SIZES, member_config

    if flags.model_size:
        encoder = BertConfig(**MODEL_SIZES[flags.model_size])
    else:
        encoder = BertConfig.from_pretrained(find_checkpoint(config.model).path)
    if config.task in TASKS:  # else it takes the data to tell; the classifier is small
        encoder.num_labels = TASKS[config.task].num_labels
    return summarize(
        member_config(config, encoder),
        members=config.ensemble.members,
        float_bits=FLOAT_BITS[config.export.remainder],
        tokens=flags.tokens or config.data.max_length,
    )
