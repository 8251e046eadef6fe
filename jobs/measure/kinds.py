"""Members of each width in bits, side by side: what they score, alone and together, and cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from bebert_ray.config import Config
from bebert_ray.nn.bert import load_model
from bebert_ray.nn.costs import Total, costs, total
from bebert_ray.pipeline.results import Results
from bebert_ray.pipeline.shared import link_stages
from measure.runs import NOT_PACKED, train_run

BIT = ("binary.activations=elastic", "binary.attention=softmax", "binary.two_sets=true")
KINDS: dict[str, tuple[str, ...]] = {
    "1-1-8": ("bits=1-1-8",),
    "1-1-4": ("bits=1-1-4",),
    "1-1-2": ("bits=1-1-2",),
    "1-1-1-bibert": ("bits=1-1-1",),
    "1-1-1-bit": ("bits=1-1-1", *BIT),
    "1-1-1-bit-through-2": ("bits=1-1-1", *BIT, "binary.through=[1-1-2]"),
}


@dataclass(frozen=True)
class Outcome:
    """What one run came to, by the primary metric on dev.

    Attributes:
        kind: one of `KINDS`.
        seed: of the run.
        teacher: the teacher's score.
        start: that of the model that the members start from.
        members: the members' own.
        ensembles: of the first 1, 2, ... members.
        cost: of a member, for a sentence of the longest length.
        teacher_cost: of the teacher.
        seconds: in training, over all stages and members.
    """

    kind: str
    seed: int
    teacher: float
    start: float
    members: list[float]
    ensembles: list[float]
    cost: Total
    teacher_cost: Total
    seconds: float

    def __str__(self) -> str:
        members = " ".join(f"{score:.4f}" for score in self.members)
        return (
            f"seed {self.seed}, {self.kind}: members {members}; ensemble {self.ensembles[-1]:.4f}"
        )


def kinds(
    load: Callable[..., Config],
    chosen: list[str],
    seeds: list[int],
    output: Path,
    tell: Callable[[str], None],
) -> list[Outcome]:
    """Train an ensemble of each kind; those of a seed have in common what stages they can.

    Args:
        load: the configuration, given overrides.
        chosen: names in `KINDS`.
        seeds: of the runs.
        output: directory for the runs, `seed-S/KIND`; a run in it goes on, and is not made anew.
        tell: told of each outcome.

    Raises:
        UserError, RunError: as by `jobs/ensemble.py`.
    """
    for kind in chosen:
        load(*KINDS[kind])  # before hours are spent on those before it
    outcomes = []
    for seed in seeds:
        home = output.absolute() / f"seed-{seed}"
        for number, kind in enumerate(chosen):
            run = home / kind
            for earlier in chosen[:number] if not run.exists() else ():
                link_stages(home / earlier, run)
            figures = train_run(load(f"seed={seed}", *KINDS[kind], NOT_PACKED, f"output={run}"))
            assert figures is not None
            outcomes.append(_outcome(figures, kind))
            tell(str(outcomes[-1]))
    return outcomes


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """All outcomes, and the means over seeds by kind."""
    return {
        "benchmark": "kinds",
        "means": {
            kind: {
                "single": round(mean(mean(each.members) for each in group), 4),
                "ensembles": [
                    round(mean(scores), 4)
                    for scores in zip(*(each.ensembles for each in group), strict=False)
                ],
            }
            for kind, group in _by_kind(outcomes).items()
        },
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def print_summary(outcomes: list[Outcome], console: Console) -> None:
    """Scores and costs by kind; means over seeds."""
    sizes = _powers_of_two(max(len(outcome.ensembles) for outcome in outcomes))
    teacher = outcomes[0].teacher_cost
    table = Table()
    table.add_column("members", no_wrap=True)
    columns = ("MB each", "smaller", "bit operations", "start", "single", "best")
    for name in (*columns, *(f"ensemble of {size}" for size in sizes), "seconds"):
        table.add_column(name, justify="right")
    table.add_row(
        "(teacher)",
        f"{teacher.bytes / 1e6:.2f}",
        "1.0x",
        f"{teacher.bit_operations:.2e}",
        f"{mean({each.seed: each.teacher for each in outcomes}.values()):.4f}",
    )
    for kind, group in _by_kind(outcomes).items():
        one = group[0]
        table.add_row(
            kind,
            f"{one.cost.bytes / 1e6:.2f}",
            f"{one.teacher_cost.bytes / one.cost.bytes:.1f}x",
            f"{one.cost.bit_operations:.2e}",
            f"{mean(each.start for each in group):.4f}",
            f"{mean(mean(each.members) for each in group):.4f}",
            f"{mean(max(each.members) for each in group):.4f}",
            *(f"{mean(_of(each.ensembles, size) for each in group):.4f}" for size in sizes),
            f"{mean(each.seconds for each in group):.0f}",
        )
    console.print(table)


def _of(ensembles: list[float], size: int) -> float:
    # Boosting may have ended before.
    return ensembles[min(size, len(ensembles)) - 1]


def _powers_of_two(most: int) -> list[int]:
    return [2**k for k in range(1, most.bit_length()) if 2**k <= most]


def _by_kind(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    return {
        kind: [outcome for outcome in outcomes if outcome.kind == kind]
        for kind in dict.fromkeys(outcome.kind for outcome in outcomes)
    }


def _outcome(figures: Results, kind: str) -> Outcome:
    run, stages = Path(figures.run), list(figures.stages.values())
    length = figures.config["data"]["max_length"]

    def cost(directory: str) -> Total:
        return total(costs(load_model(run / directory), length))

    return Outcome(
        kind=kind,
        seed=figures.seed,
        teacher=figures.headline(stages[0].scores),
        start=figures.headline(stages[-1].scores),
        members=[figures.headline(member.scores) for member in figures.members],
        ensembles=[figures.headline(scores) for scores in figures.staged],
        cost=cost(figures.members[0].name.replace("member ", "members/")),
        teacher_cost=cost(stages[0].name),
        seconds=sum(model.seconds for model in (*stages, *figures.members)),
    )
