"""How fast packed models answer, beside the full-precision model that they replace.

Each model has a process of its own in each engine, and they take turns. In a turn it computes one
batch that does not count, and then as many as it can in a fifth of a second, at least one.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from bebert_ray.packed.engines import engine
from bebert_ray.training.precision import fast_precision
from measure.contestants import Contestant, in_process
from measure.untrained import untrained

SHAPES = ((1, 32), (1, 128), (32, 64))
"""Batches that are measured: texts, and tokens of each."""

TURN = 0.2
"""Seconds that a model computes batches of one shape for, before it is another one's turn."""

FLIPPED = 0.005
"""The share of its bits by which a measured member differs, about that of trained ones."""

LABELS = ("no", "yes")
TEACHER = "teacher"

Rows = list[dict[str, Any]]


def infer(
    kinds: list[str], members: int, model: str, repeat: int, threads: list[int], output: Path
) -> dict[str, Any]:
    """Measure ensembles of untrained members, of which speed does not depend, and the teacher.

    Args:
        kinds: bits of the ensembles, such as 1-1-4.
        members: of an ensemble.
        model: the encoder, see `nn.checkpoint.find_checkpoint`.
        repeat: turns of each shape; one more comes first.
        threads: numbers of threads.
        output: for the picture, `infer.png`.

    Returns:
        `rows`: of each engine, model, shape and number of threads the median `ms`, its `ratio` to
        the teacher in the same engine (in torch to float32, elsewhere to int8), the `peak_mib` of
        the process, of which `model_mib` are the model's, and `file_mb`.
    """
    rows: Rows = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        in_process(_make_teacher, {}, model, place / TEACHER)
        for kind in kinds:
            in_process(_make_packed, {}, model, kind, members, place / kind)
        for count in threads:
            rows += _measured(place, kinds, count, repeat)
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "infer.png"
    picture.write_bytes(draw(rows, members))
    return {
        "benchmark": "infer",
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "engine": engine(),
        "model": model,
        "members": members,
        "repeat": repeat,
        "rows": rows,
        "picture": str(picture),
    }


def contestants(place: Path, kinds: list[str]) -> Iterator[tuple[str, str, Path, Callable]]:
    """Engine, model, file and maker of each; OpenVINO's if it is installed."""
    yield "torch", f"{TEACHER} fp32", place / TEACHER, _torch_teacher
    if fast_precision(gpu=0) == "bf16":
        yield "torch", f"{TEACHER} bf16", place / TEACHER, _torch_teacher_bf16
    for kind in kinds:
        yield "torch", kind, place / kind, _torch
        yield "torch", f"{kind}, low memory", place / kind, _torch_low_memory
    others = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    for name, make in others.items():
        if find_spec(name) is None:
            continue
        yield name, f"{TEACHER} int8", place / TEACHER / f"{name}.onnx", make
        for kind in kinds:
            yield name, kind, place / kind / f"{name}.onnx", make
            if name == "openvino" and fast_precision(gpu=0) == "bf16":
                yield name, f"{kind}, fp32", place / kind / f"{name}.onnx", _openvino_fp32
    for kind in kinds:
        yield "onnxruntime", f"{kind}, int8 file", place / kind / "int8.onnx", _onnxruntime


def _measured(place: Path, kinds: list[str], threads: int, repeat: int) -> Rows:
    listed = list(contestants(place, kinds))
    words = AutoConfig.from_pretrained(place / TEACHER).vocab_size
    environment = {"OMP_NUM_THREADS": str(threads)}
    running = [
        Contestant(make, environment, path, threads, words, threads=threads)
        for _, _, path, make in listed
    ]
    seconds: dict[tuple[int, tuple[int, int]], list[float]] = {}
    for turn in range(repeat + 1):
        for shape in SHAPES:
            for number, contestant in enumerate(running):
                # The first batch after the others' turn tells how fast a process wakes up.
                took = [contestant.step(*shape)]
                while turn and sum(took[1:]) < TURN:
                    took.append(contestant.step(*shape))
                seconds.setdefault((number, shape), []).extend(took[1:])
        print(f"{threads} threads, turn {turn}/{repeat}", file=sys.stderr)
    peaks = [contestant.stop() for contestant in running]
    rows = []
    for number, (name, what, path, _) in enumerate(listed):
        base = next(i for i, each in enumerate(listed) if each[0] == name)  # the teacher
        for shape in SHAPES:
            median = statistics.median(seconds[number, shape])
            rows.append(
                {
                    "threads": threads,
                    "shape": list(shape),
                    "engine": name,
                    "model": what,
                    "ms": round(1e3 * median, 2),
                    "ratio": round(median / statistics.median(seconds[base, shape]), 3),
                    "peak_mib": round(peaks[number]),
                    "model_mib": round(peaks[number] - running[number].before),
                    "file_mb": round(_bytes(path) / 1e6, 2),
                }
            )
    return rows


def print_rows(rows: Rows, console: Console) -> None:
    """Print a table for each number of threads: a line is a model in an engine."""
    for threads in dict.fromkeys(row["threads"] for row in rows):
        table = Table(title=f"{threads} threads: ms, and times the teacher in the same engine")
        for column in ("engine", "model", *(f"{b} x {n}" for b, n in SHAPES), "file", "peak"):
            table.add_column(column, justify="left" if column in ("engine", "model") else "right")
        lines: dict[tuple[str, str], Rows] = {}
        for row in rows:
            if row["threads"] == threads:
                lines.setdefault((row["engine"], row["model"]), []).append(row)
        for (name, what), line in lines.items():
            cells = [f"{row['ms']:.1f}  {row['ratio']:.2f}x" for row in line]
            memory = f"{line[0]['peak_mib']} MiB, model {line[0]['model_mib']}"
            table.add_row(name, what, *cells, f"{line[0]['file_mb']:.1f} MB", memory)
        console.print(table)


def draw(rows: Rows, members: int) -> bytes:
    """A PNG: of each shape, the ratio of each model to the teacher in the same engine."""
    threads = rows[0]["threads"]
    shown = [row for row in rows if row["threads"] == threads]
    names = list(dict.fromkeys((row["engine"], row["model"]) for row in shown))[::-1]
    figure = Figure(figsize=(11, 0.8 + 0.26 * len(names)), layout="constrained")
    for axes, shape in zip(figure.subplots(1, len(SHAPES), sharey=True), SHAPES, strict=True):
        ratios = {(r["engine"], r["model"]): r["ratio"] for r in shown if r["shape"] == list(shape)}
        bars = axes.barh(
            [f"{name}: {what}" for name, what in names],
            [ratios[name] for name in names],
            color=["0.6" if TEACHER in what else "tab:blue" for _, what in names],
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set(title=f"{shape[0]} x {shape[1]} tokens", xlabel="times the teacher")
        axes.margins(x=0.15)
    figure.suptitle(f"{members} members, {threads} thread{'s' * (threads > 1)}")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _batch(texts: int, tokens: int, words: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(words // 30, words, (texts, tokens))
    masks = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {"input_ids": ids, **masks}


def _make_teacher(model: str, directory: Path) -> None:
    from transformers import BertForSequenceClassification

    from bebert_ray.nn.checkpoint import find_checkpoint
    from measure.teacher_onnx import write_teacher

    path = find_checkpoint(model).path
    teacher = BertForSequenceClassification.from_pretrained(path, num_labels=len(LABELS)).eval()
    teacher.save_pretrained(directory)
    batches = [
        {k: v.numpy() for k, v in _batch(4, 64, teacher.config.vocab_size).items()}
        for _ in range(2)
    ]
    write_teacher(teacher, directory, batches)


def _make_packed(model: str, kind: str, members: int, directory: Path) -> None:
    from bebert_ray.nn.checkpoint import find_checkpoint
    from bebert_ray.packed import packed_model
    from bebert_ray.packed.onnx import export_onnx

    words = AutoConfig.from_pretrained(find_checkpoint(model).path).vocab_size
    batch, every = _batch(8, 64, words), []
    for seed in range(members):
        member = untrained(model, kind, batch, len(LABELS))
        flip_(member, seed)
        every.append(member)
    packed = packed_model(every, [1.0] * members, LABELS, ["text"])
    packed.save_pretrained(directory)
    export_onnx(packed, directory / "onnxruntime.onnx")
    export_onnx(packed, directory / "openvino.onnx", "openvino")
    export_onnx(packed, directory / "int8.onnx", weights="int8")


@torch.no_grad()
def flip_(member: Any, seed: int) -> None:
    """Give a member bits of its own: flip some of its latent weights, in place.

    Of members that are the same an engine would compute one alone.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in member.modules():
        if hasattr(module, "binary_weights"):
            for weight in module.parameters(recurse=False):
                if weight.dim() > 1:
                    weight[torch.rand(weight.shape, generator=generator) < FLIPPED] *= -1


def _torch_teacher(path: Path, threads: int, words: int) -> Callable[..., object]:
    from transformers import BertForSequenceClassification

    return _torch_step(BertForSequenceClassification.from_pretrained(path).eval(), words)


def _torch_teacher_bf16(path: Path, threads: int, words: int) -> Callable[..., object]:
    from transformers import BertForSequenceClassification

    loaded = BertForSequenceClassification.from_pretrained(path, dtype=torch.bfloat16)
    return _torch_step(loaded.eval(), words)


def _torch(path: Path, threads: int, words: int) -> Callable[..., object]:
    from bebert_ray.packed import BebertForSequenceClassification

    return _torch_step(BebertForSequenceClassification.from_pretrained(path), words)


def _torch_low_memory(path: Path, threads: int, words: int) -> Callable[..., object]:
    from bebert_ray.packed import BebertForSequenceClassification

    return _torch_step(
        BebertForSequenceClassification.from_pretrained(path, low_memory=True), words
    )


def _torch_step(model: Any, words: int) -> Callable[..., object]:
    batches = {shape: _batch(*shape, words) for shape in SHAPES}

    @torch.inference_mode()
    def step(texts: int, tokens: int) -> object:
        return model(**batches[texts, tokens]).logits

    return step


def _onnxruntime(path: Path, threads: int, words: int) -> Callable[..., object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batches = {shape: {k: v.numpy() for k, v in _batch(*shape, words).items()} for shape in SHAPES}
    return lambda texts, tokens: session.run(None, batches[texts, tokens])


def _openvino_fp32(path: Path, threads: int, words: int) -> Callable[..., object]:
    """What is not int8 in float32, as in the other engines; by default it is bf16 where fast."""
    return _openvino(path, threads, words, INFERENCE_PRECISION_HINT="f32")


def _openvino(path: Path, threads: int, words: int, **more: str) -> Callable[..., object]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, **more}
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    batches = {shape: {k: v.numpy() for k, v in _batch(*shape, words).items()} for shape in SHAPES}
    return lambda texts, tokens: request.infer(batches[texts, tokens])


def _bytes(path: Path) -> int:
    """Of the file, or of a model's tensors."""
    return os.path.getsize(path / "model.safetensors" if path.is_dir() else path)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
