"""Write a packed model for other engines; `python jobs/export.py --help` tells more."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from bebert_ray.cli.common import console, run_job
from bebert_ray.errors import UserError

DESCRIPTION = """\
Write a packed model as ONNX, for onnxruntime and other engines. Its inputs are input_ids,
attention_mask and token_type_ids, int64 [batch, tokens], both dimensions free; its output is
logits, float [batch, labels]. Needs `pip install 'bebert_ray[onnx]'`.

To pack the members of a run anew, give the run's own command with another export.remainder.
exit code: 0 written, 2 something in the input is wrong"""

EXAMPLES = """\
examples:
  python jobs/export.py runs/mrpc mrpc.onnx
  python jobs/export.py runs/mrpc/model mrpc.onnx --weights nbits"""


def main(arguments: list[str] | None = None) -> None:
    """Load, write, and say what was written."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", help="a packed model or a run: a path, or a URI")
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to write")
    parser.add_argument(
        "--weights",
        choices=("bits", "nbits"),
        default="bits",
        help="bits (default): one bit a weight in the file and plain ONNX operators, floats in "
        "memory; nbits: two bits in both, by onnxruntime's MatMulNBits: slower, and smaller there",
    )
    flags = parser.parse_args(arguments)
    if find_spec("onnx") is None:
        raise UserError("the package onnx is missing: pip install 'bebert_ray[onnx]'")

    from bebert_ray.packed import BebertForSequenceClassification
    from bebert_ray.packed.load import find_model
    from bebert_ray.packed.onnx import export_onnx

    model = BebertForSequenceClassification.from_pretrained(find_model(flags.model))
    export_onnx(model, flags.file, flags.weights)
    console().print(f"{flags.file}: {flags.file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(run_job(main))
