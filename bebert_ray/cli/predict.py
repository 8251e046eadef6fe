"""`bebert predict`, and `jobs/predict.py`: score files of texts with a finished model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from bebert_ray.cli.common import consoles, count, make_parser

DESCRIPTION = """\
Score the texts in Parquet, CSV, TSV or JSONL files with a finished model, on any cluster.

Output files have the format and the columns of the input, then `label` and `probability_<label>`,
or `score` if the model predicts a number. Rows stay in order, some thousand an output file. Those
without text, or that cannot be read, are listed in OUTPUT/_bad_rows: file, row (from 1; in CSV, TSV
and JSONL the line) and reason. Killed and given again, the command does what is left.
The last line of stdout is one JSON object with the figures.
exit code: 0 done, 1 the run failed, 2 something in the input is wrong"""

EXAMPLES = """\
  bebert predict --model runs/mrpc/model --input pairs.parquet --output scored
  bebert predict --model runs/sst2/model --input s3://bucket/reviews \\
      --text-columns review --output s3://bucket/scored
  bebert predict --model runs/mrpc/model --glue mrpc --input GLUE --output submission
  ray job submit --working-dir . -- python jobs/predict.py --model s3://bucket/runs/mrpc/model \\
      --input s3://bucket/pairs --output s3://bucket/scored"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Score what is not scored yet, and show the figures."""
    flags = _parse(arguments, prog)
    out, progress = consoles(flags)
    settings = vars(flags)
    glue = settings.pop("glue")
    del settings["quiet"], settings["verbose"]

    # Only now: --help should not wait for torch and Ray.
    from bebert_ray.scoring.parts import BAD_ROWS
    from bebert_ray.scoring.run import Request, predict, print_figures
    from bebert_ray.scoring.submission import submit

    request = Request(**settings)
    outcome = submit(glue, request, progress) if glue else predict(request, progress)
    figures = outcome.figures()
    print_figures(figures, out)
    if outcome.bad:
        out.print(f"{outcome.bad:,} bad rows are listed in {outcome.output / BAD_ROWS}")
    print(json.dumps(figures), flush=True)


def _parse(arguments: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = make_parser(DESCRIPTION, EXAMPLES, prog)
    add = parser.add_argument
    add(
        "--model",
        metavar="DIR",
        required=True,
        help="a path or URI, as model/ of a run; any sequence classifier of transformers will do",
    )
    add(
        "--input",
        metavar="PLACE",
        required=True,
        nargs="+",
        help="files and directories, paths or URIs; with --glue, one GLUE directory",
    )
    add("--output", metavar="DIR", required=True, help="a path or URI; empty, or of this command")
    add(
        "--text-columns",
        metavar="NAME",
        nargs="+",
        help="the column with the texts, or the two of a pair (default: as the model was trained)",
    )
    add(
        "--prefix",
        metavar="TEXT",
        default="",
        help="begins the names of the columns added, such "
        "as predicted_ where there is a label already",
    )
    add("--glue", metavar="TASK", help="score the task's test splits for GLUE's leaderboard")
    add(
        "--rows-per-file",
        metavar="N",
        type=count,
        default=5000,
        help="most rows of an output file, which a process holds at once (default: %(default)s)",
    )
    add(
        "--batch-size",
        metavar="N",
        type=count,
        default=64,
        help="texts in a forward pass (default: %(default)s)",
    )
    add(
        "--workers",
        metavar="N",
        type=count,
        help="processes (default: one a GPU, or one a CPU if there is none)",
    )
    add(
        "--cascade",
        action="store_true",
        help="ask a member only where those before it are unsure: faster, and nearly the same",
    )
    return parser.parse_args(arguments)
