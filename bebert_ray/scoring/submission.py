"""Predictions for GLUE's test splits, as its leaderboard takes them: one TSV file a split.

Each has a header and a row an example: the `index` that the test file gives it, and the
`prediction`, spelled as labels are in the training files; a score from 0 to 5 with three decimals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from bebert_ray.data.formats.safe import tsv_safe
from bebert_ray.data.glue_tsv import LAYOUTS
from bebert_ray.data.tasks import TASKS, task_name
from bebert_ray.errors import UserError
from bebert_ray.nn.classes import find_order
from bebert_ray.scoring.classifier import Card, read_card
from bebert_ray.scoring.parts import Part
from bebert_ray.scoring.run import Outcome, Request, predict
from bebert_ray.storage import Location, exists, read, write_atomic

_MNLI = {
    "MNLI-m.tsv": "MNLI/test_matched.tsv",
    "MNLI-mm.tsv": "MNLI/test_mismatched.tsv",
    "AX.tsv": "diagnostic/diagnostic.tsv",  # for the same model; not in every download
}


def submit(glue: str, request: Request, progress: Console) -> Outcome:
    """Score a GLUE task's test splits, and write the leaderboard's files.

    Args:
        glue: Name of the task.
        request: What is to be scored; the input is a GLUE directory. The scored rows go into a
            directory below the output directory.
        progress: Where progress is printed.

    Raises:
        UserError: Something in the input is wrong, or an example has no prediction.
        RunError: Scoring failed.
    """
    try:
        name = task_name(glue)
    except UserError:
        name = ""
    if name not in LAYOUTS:
        raise UserError(f"--glue {glue[:60]}: is none of GLUE's; they are: {', '.join(LAYOUTS)}")
    if len(request.input) != 1 or request.text_columns or request.prefix:
        raise UserError("--glue: takes one --input, and neither --text-columns nor --prefix")
    order = _order(name, read_card(Location.parse(request.model)))
    output = Location.parse(request.output)
    tests = _tests(name, Location.parse(request.input[0]))
    outcome = predict(
        replace(
            request,
            input=[str(test) for test in tests.values()],
            output=str(output / f"_{name}"),
            text_columns=list(LAYOUTS[name].text_columns),
        ),
        progress,
    )
    output = output.rooted()  # it is there now
    for wanted, test in tests.items():
        lines = ["index\tprediction"]
        for part in outcome.parts:
            if part.source == str(test):
                lines += _lines(name, outcome, part, order)
        write_atomic(output / wanted, "\n".join(lines) + "\n")
        progress.print(f"for the leaderboard: {output / wanted}")
    return outcome


def _tests(name: str, root: Location) -> dict[str, Location]:
    """The test files, by the names of the leaderboard's files."""
    directory = TASKS[name].directory
    files = _MNLI if name == "mnli" else {f"{directory}.tsv": f"{directory}/test.tsv"}
    found = {wanted: root / file for wanted, file in files.items() if exists(root / file)}
    if not found:
        raise UserError(
            f"--input {root}: there is no {next(iter(files.values()))}; with --glue, give a "
            "directory in the official GLUE layout"
        )
    return found


def _order(name: str, card: Card) -> tuple[int, ...]:
    """Where each class of the task stands among the model's; empty for a score."""
    has, needs = len(card.labels or ()), len(TASKS[name].labels or ())
    if has != needs:
        kinds = [f"one of {count} classes" if count else "a score" for count in (has, needs)]
        raise UserError(f"--model: predicts {kinds[0]}, and --glue {name} needs {kinds[1]}")
    return find_order(card.labels or (), TASKS[name].labels or (), "--model", f"--glue {name}")


def _lines(name: str, outcome: Outcome, part: Part, order: tuple[int, ...]) -> Iterator[str]:
    text = read(outcome.output / part.name).decode()
    # Not str.splitlines: GLUE text holds Unicode line separators, which end no row.
    header, *rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    if len(rows) < part.span.rows:
        raise UserError(
            f"{part.source}: the leaderboard wants a prediction for every example; those without "
            f"are listed in {outcome.output / part.bad_rows}"
        )
    labels, spelled = outcome.card.labels, LAYOUTS[name].labels or ()
    written = [tsv_safe(label) for label in labels or ()]
    index = header.index("id" if name == "qqp" else "index")
    value = header.index("score" if labels is None else "label")
    for row in rows:
        if labels is None:
            yield f"{row[index]}\t{min(max(float(row[value]), 0.0), 5.0):.3f}"
        else:
            yield f"{row[index]}\t{spelled[order.index(written.index(row[value]))]}"
