"""What is made of the scores of each kind of member; the runs themselves are in tests/jobs."""

import io
import json

import pytest
from measure.kinds import KINDS, Outcome, print_summary, summary
from rich.console import Console

from bebert_ray.config import load_config
from bebert_ray.config.recipes import kind_of
from bebert_ray.nn.costs import Cost, total

TEACHER = total([Cost("x", 32, 32, 10**6, 10**6, 0, 0, 4 * 10**6)])
MEMBER = total([Cost("x", 1, 1, 10**6, 10**6, 125_000, 75_000, 0)])


def outcome(kind, seed, *ensembles):
    return Outcome(kind, seed, 0.9, 0.8, [0.7, 0.75], list(ensembles), MEMBER, TEACHER, 60.0)


OUTCOMES = [
    outcome("1-1-8", 1, 0.7, 0.75, 0.76, 0.78),
    outcome("1-1-8", 2, 0.72, 0.77, 0.78, 0.8),
    outcome("1-1-1-bibert", 1, 0.6, 0.61),  # boosting has ended
    outcome("1-1-1-bibert", 2, 0.62, 0.63, 0.64, 0.65),
]


def test_means_over_seeds():
    figures = summary(OUTCOMES)
    assert figures["means"]["1-1-8"] == {"single": 0.725, "ensembles": [0.71, 0.76, 0.77, 0.79]}
    assert figures["means"]["1-1-1-bibert"]["ensembles"] == [0.61, 0.62]
    assert len(json.loads(json.dumps(figures))["outcomes"]) == len(OUTCOMES)


def test_the_table_sets_costs_beside_scores():
    shown = io.StringIO()
    print_summary(OUTCOMES, Console(file=shown, width=160))
    rows = {
        cells[0]: cells[1:]
        for line in shown.getvalue().splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│").split("│")]) > 3
    }
    assert rows["(teacher)"][:4] == ["4.00", "1.0x", "1.02e+09", "0.9000"]
    assert rows["1-1-8"] == [
        *("0.20", "20.0x", "1.00e+06"),
        *("0.8000", "0.7250", "0.7500", "0.7600", "0.7900", "60"),
    ]
    assert rows["1-1-1-bibert"][-3:] == ["0.6200", "0.6300", "60"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_valid_configuration(kind):
    config = load_config(None, ["task=sst2", *KINDS[kind]])
    assert kind.startswith(config.bits)
    assert kind_of(config).stages[-1].bits == config.bits
