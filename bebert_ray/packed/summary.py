"""The costs of an ensemble as one value, and as tables for people."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from transformers import BertConfig

from bebert_ray.errors import UserError
from bebert_ray.nn.bert import outline
from bebert_ray.nn.costs import TOKENS, Cost, Total, costs, total
from bebert_ray.nn.shape import Shape

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Summary:
    """The costs of an ensemble.

    Attributes:
        tokens: length of the sentence that operations are counted for.
        float_bits: width of what stays a float in the file.
        layers: of one member; layers that differ only in their number are added up, and a `*`
            stands for the number.
        counts: the number of layers that each of these adds up.
        members: the number of members.
        ensemble: all of them together.
        full: a model of the same checkpoint in full precision, in 32 bits.
        asked: the mean number of members that the cascade asks; None if there is none.
        files: bytes on disk by name of the file; None if there are no files.
        stored: bytes of the tensors in the file, see `stored_bytes`; None if there is none.
    """

    tokens: int
    float_bits: int
    layers: list[Cost]
    counts: list[int]
    members: int
    ensemble: Total
    full: Total
    asked: float | None = None
    files: dict[str, int] | None = None
    stored: dict[str, int] | None = None

    def __str__(self) -> str:
        text = io.StringIO()
        print_summary(self, file=text)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """All fields, with derived figures, in JSON's types."""
        layers = [
            asdict(cost)
            | {"count": count, "bit_operations": cost.bit_operations, "flops": cost.flops}
            for cost, count in zip(self.layers, self.counts, strict=True)
        ]
        return asdict(self) | {
            "layers": layers,
            "ensemble": asdict(self.ensemble) | {"bytes": self.ensemble.bytes},
            "full": asdict(self.full) | {"bytes": self.full.bytes},
        }


def summarize(
    member: BertConfig,
    members: int,
    float_bits: int,
    tokens: int = TOKENS,
    directory: Path | None = None,
    asked: float | None = None,
) -> Summary:
    """Count the costs of members of a shape; no weights are needed.

    Args:
        member: the configuration of a member, see `nn.bert.outline`.
        members: the number of members.
        float_bits: bits of a float in the file.
        tokens: length of a sentence.
        directory: of the packed model, if there is one.
        asked: the mean number of members that its cascade asks, if it has one.

    Examples:
        >>> config = BertConfig()
        >>> Shape(0.5, "split", 8).write_to(config)
        >>> summary = summarize(config, members=2, float_bits=16)
        >>> round(summary.full.bytes / summary.ensemble.bytes, 1)
        12.3
    """
    every = costs(outline(member), tokens, float_bits)
    full = copy.deepcopy(member)
    Shape().write_to(full)
    layers, counts = _grouped(every)
    return Summary(
        tokens=tokens,
        float_bits=float_bits,
        layers=layers,
        counts=counts,
        members=members,
        ensemble=total(every * members),
        full=total(costs(outline(full), tokens)),
        asked=asked,
        files=None if directory is None else _files(directory),
        stored=None if directory is None else stored_bytes(directory),
    )


def stored_bytes(directory: Path) -> dict[str, int]:
    """The bytes that tensors of a packed model take in its file.

    Returns:
        Bytes of the binary `weights`, their `scales` and the `floats`, without those of members
        that have them in common with an earlier one; and of the whole `file`, with its header.
    """
    path = directory / "model.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = {"weights": 0, "scales": 0, "floats": 0}
    kinds = {"signs": "weights", "scales": "scales"}
    for name, tensor in header.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            sizes[kinds.get(name.rpartition(".")[2], "floats")] += end - begin
    return sizes | {"file": path.stat().st_size}


def print_summary(
    summary: Summary, console: Console | None = None, file: IO[str] | None = None
) -> None:
    """Print tables: a member by kinds of layers, then the ensemble against full precision.

    Args:
        summary: what to print.
        console: where; None for one of 120 columns on `file`.
        file: where to, without a console; None for stdout.

    Raises:
        UserError: the package rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        raise UserError("a summary is printed with the package rich: pip install rich") from error

    console = console or Console(file=file, width=120)
    table = Table(title=f"one member, a sentence of {summary.tokens} tokens", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for name in ("layers", "W", "A", "numbers, K", "packed, KB", "MACs, M", "bit ops, G"):
        table.add_column(name, justify="right")
    for cost, count in zip(summary.layers, summary.counts, strict=True):
        size = cost.weight_bytes + cost.scale_bytes + cost.float_bytes
        table.add_row(
            cost.name,
            str(count),
            str(cost.weight_bits),
            str(cost.activation_bits),
            f"{cost.parameters / 1e3:,.1f}",
            f"{size / 1e3:,.1f}",
            f"{cost.macs / 1e6:,.1f}",
            f"{cost.bit_operations / 1e9:,.2f}",
        )
    console.print(table)
    ensemble, full = summary.ensemble, summary.full
    title = f"{summary.members} members against one model in full precision"
    table = Table(title=title, title_justify="left")
    for name in ("", "packed", "full precision", "ratio"):
        table.add_column(name, justify="right" if name else "left")

    def row(name: str, ours: float, theirs: float | None, unit: float, digits: int = 2) -> None:
        both = [f"{value / unit:,.{digits}f}" for value in (ours, theirs) if value is not None]
        both += [""] * (2 - len(both))
        table.add_row(name, *both, "" if theirs is None else _ratio(ours, theirs))

    row("binary weights, MB", ensemble.weight_bytes, None, 1e6)
    row("their scales, 32 bits, MB", ensemble.scale_bytes, None, 1e6)
    row(f"all that stays float, {summary.float_bits} bits, MB", ensemble.float_bytes, None, 1e6)
    row("size as counted, MB", ensemble.bytes, full.bytes, 1e6)
    if summary.files is not None and summary.stored is not None:
        held = sum(summary.stored.values()) - summary.stored["file"]
        row("less what members have in common, MB", held, full.bytes, 1e6)
        row("model.safetensors on disk, MB", summary.stored["file"], full.bytes, 1e6)
        row("all files on disk, MB", sum(summary.files.values()), None, 1e6)
    table.add_section()
    row("MACs, G", ensemble.macs, full.macs, 1e9)
    row("FLOPs as the papers count, G", ensemble.flops, full.flops, 1e9)
    row("bit operations, T", ensemble.bit_operations, full.bit_operations, 1e12, 3)
    if summary.asked is not None:  # members cost the same
        expected = ensemble.macs * summary.asked / summary.members
        row(f"MACs in a cascade of {summary.asked:.2f} members, G", expected, full.macs, 1e9)
    console.print(table)
    console.print(
        "W, A: bits of a weight, and of what it is multiplied with.\n"
        "FLOPs as the papers count: 2 a MAC, times W A / 64 unless both are floats. "
        "Bit operations: MACs times W A."
    )


def _files(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


def _ratio(ours: float, theirs: float) -> str:
    return f"1/{theirs / ours:.1f}" if ours < theirs else f"{ours / theirs:.1f}"


def _grouped(every: Sequence[Cost]) -> tuple[list[Cost], list[int]]:
    """Add up costs of layers whose names differ in their number alone; and how many each is."""
    groups: dict[str, list[Cost]] = {}
    for cost in every:
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", cost.name), []).append(cost)
    layers = [
        replace(group[0], name=name.removeprefix("bert."), **_sums(group))
        for name, group in groups.items()
    ]
    return layers, [len(group) for group in groups.values()]


def _sums(group: Sequence[Cost]) -> dict[str, Any]:
    names = ("parameters", "macs", "weight_bytes", "scale_bytes", "float_bytes")
    return {name: sum(getattr(cost, name) for cost in group) for name in names}
