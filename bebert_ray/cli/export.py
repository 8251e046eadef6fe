"""`bebert export`, and `jobs/export.py`: write a packed model for other engines."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bebert_ray.cli.common import consoles, local_path, make_parser
from bebert_ray.errors import UserError

DESCRIPTION = """\
Write a packed model as ONNX, for onnxruntime, OpenVINO and other engines. Its inputs are input_ids,
attention_mask and token_type_ids, int64 [batch, tokens], both dimensions free; its output is
logits, float [batch, labels]. Needs `pip install 'bebert_ray[onnx]'`.

exit code: 0 written, 2 something in the input is wrong"""

EXAMPLES = """\
  bebert export runs/mrpc mrpc.onnx
  bebert export runs/mrpc/model mrpc.onnx --engine openvino"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Load, write, and say what was written."""
    parser = make_parser(DESCRIPTION, EXAMPLES, prog)
    parser.add_argument("model", metavar="DIR", help="a packed model or a run: a path, or a URI")
    parser.add_argument("file", metavar="FILE", type=local_path, help="the file to write")
    parser.add_argument(
        "--engine",
        choices=("onnxruntime", "openvino"),
        default="onnxruntime",
        help="which engine's integer products the graph is written for (default: onnxruntime); "
        "all operators are plain ONNX, and each engine can run both",
    )
    parser.add_argument(
        "--weights",
        choices=("bits", "int8"),
        default="bits",
        help="bits (default): one bit a weight, which the engine unpacks when it opens the file; "
        "int8: a byte a weight",
    )
    parser.add_argument(
        "--cascade",
        action="store_true",
        help="ask a member only where those before it are unsure",
    )
    flags = parser.parse_args(arguments)
    out, _ = consoles(flags)
    file: Path = flags.file
    if (file.exists() or file.is_symlink()) and not file.is_file():
        raise UserError(f"{file} is there and is no regular file; name another file")
    if find_spec("onnx") is None:
        raise UserError("the package onnx is missing: pip install 'bebert_ray[onnx]'")

    from transformers.utils import logging as transformers_logging

    from bebert_ray.packed import load_model
    from bebert_ray.packed.onnx import export_onnx

    transformers_logging.disable_progress_bar()
    model = load_model(flags.model)
    export_onnx(model, file, flags.engine, flags.weights, flags.cascade)
    out.print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")
