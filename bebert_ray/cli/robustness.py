"""`bebert robustness`, and `jobs/robustness.py`: scores of a finished run under perturbations."""

from __future__ import annotations

from collections.abc import Sequence

from bebert_ray.cli.common import consoles, local_path, make_parser
from bebert_ray.errors import UserError

DESCRIPTION = """\
Measure how much worse the models of a finished run become, on its dev split, where something is
disturbed: the texts, the word embeddings, or the bits of the packed weights. The teacher, the other
stages, each member and the ensemble are measured, and other classifiers if asked for, on Ray: the
cluster of RAY_ADDRESS, or this machine. The run needs its data as they were.

Prints a table of areas under the curves of scores, writes robustness.json and robustness.png in the
run directory, and a section in its report.html. The last line of stdout is one JSON object.
exit code: 0 done, 1 failed, 2 wrong input"""

EXAMPLES = """\
  bebert robustness runs/mrpc
  bebert robustness runs/mrpc --suite typos --suite bits=0.001,0.01 --repeats 5
  bebert robustness runs/sst2 --file advglue/dev.json --json figures.json
  bebert robustness runs/sst2 --model distilbert/distilbert-base-uncased-finetuned-sst-2-english"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Measure, write and print."""
    from bebert_ray.robustness.suites import SUITES, parse_suites

    strengths = "\n".join(
        f"  {suite.name:<12} {suite.unit}: {', '.join(f'{s:g}' for s in suite.strengths)}"
        for suite in SUITES.values()
    )
    parser = make_parser(
        DESCRIPTION, f"{EXAMPLES}\n\nsuites and their strengths:\n{strengths}", prog
    )
    parser.add_argument("run", metavar="RUN", help="run directory: a path, or a URI such as s3://…")
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME[=STRENGTH,…]",
        help="may be given again; default: all of them",
    )
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        type=local_path,
        metavar="FILE",
        help="perturbed examples in AdvGLUE's format; may be given again",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="another sequence classifier, by directory or hub name; may be given again",
    )
    parser.add_argument("--seed", type=int, default=42, help="of the perturbations (default: 42)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="draws of each perturbation; figures are their means"
    )
    parser.add_argument("--examples", type=int, help="the most examples of dev (default: all)")
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="write all figures here too"
    )
    flags = parser.parse_intermixed_args(arguments)
    for name in ("repeats", "examples"):
        if (value := getattr(flags, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    if flags.seed < 0:
        parser.error("--seed must be at least 0")
    suites = parse_suites(flags.suite)
    out, progress = consoles(flags)

    from bebert_ray.pipeline.results import to_json
    from bebert_ray.reporting.report import keep_robustness
    from bebert_ray.reporting.robustness import print_robustness
    from bebert_ray.robustness.run import Request, measure_run
    from bebert_ray.storage import Location, check_unlocked, lock, write_atomic

    run = Location.parse(flags.run)
    if flags.json is not None and not flags.json.absolute().parent.is_dir():
        raise UserError(f"--json {flags.json}: its directory does not exist")
    if flags.json is not None and flags.json.is_dir():
        raise UserError(f"--json {flags.json}: is a directory; name a file")
    request = Request(
        run, suites, flags.file, flags.model, flags.seed, flags.repeats, flags.examples
    )
    check_unlocked(run)
    figures = measure_run(request, progress.print)
    with lock(run):
        keep_robustness(figures, run)
    print_robustness(figures, out)
    if flags.json is not None:
        write_atomic(flags.json, to_json(figures.everything(), indent=2))
    print(to_json(figures.summary()), flush=True)
