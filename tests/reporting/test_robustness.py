import io
import json

import pytest
from rich.console import Console

from bebert_ray.reporting.charts import svg
from bebert_ray.reporting.robustness import (
    MEAN_MEMBER,
    Robustness,
    SuiteFigures,
    draw_robustness,
    print_robustness,
)


def point(accuracy):
    return {"accuracy": accuracy, "nll": 1 - accuracy}


def suite(name, strengths, curves, areas):
    points = {model: [point(each) for each in curve] for model, curve in curves.items()}
    return SuiteFigures(name, "unit", strengths, points, areas)


@pytest.fixture
def figures():
    clean = {"teacher": 0.9, "member 000": 0.8, "member 001": 0.7, "ensemble of 2": 0.85}
    return Robustness(
        run="runs/x",
        of="0",
        task="sst2",
        metrics=("accuracy",),
        dev="dev",
        examples=10,
        seed=1,
        repeats=1,
        members=("member 000", "member 001"),
        ensemble="ensemble of 2",
        clean={name: point(score) for name, score in clean.items()},
        suites=[
            suite(
                "typos",
                (0.1, 0.2),
                {name: [score - 0.1, score - 0.3] for name, score in clean.items()},
                {name: score - 0.125 for name, score in clean.items()},
            ),
            suite(
                "bits",
                (0.01,),
                {name: [0.6] for name in clean if name != "teacher"},
                {name: 0.65 for name in clean if name != "teacher"},
            ),
        ],
    )


def test_rows_have_the_mean_member_before_the_ensemble_and_gaps_where_nothing_is_known(figures):
    heads, rows = figures.areas()
    assert heads == ["model", "clean", "typos", "bits"]
    assert rows == [
        ["teacher", "0.9000", "0.7750", ""],
        ["member 000", "0.8000", "0.6750", "0.6500"],
        ["member 001", "0.7000", "0.5750", "0.6500"],
        [MEAN_MEMBER, "0.7500", "0.6250", "0.6500"],
        ["ensemble of 2", "0.8500", "0.7250", "0.6500"],
    ]


def test_means_are_over_the_suites_that_disturb_every_model(figures):
    heads, rows = figures.under_shift()
    assert heads == ["model", "accuracy", "nll"]
    assert rows[0] == ["teacher", "0.7000", "0.3000"]
    alone = Robustness(**{**vars(figures), "suites": figures.suites[1:]})
    assert alone.under_shift() == (["model"], [])


def test_details_go_by_strength(figures):
    heads, rows = figures.details(figures.suites[0], "nll")
    assert heads == ["model", "0", "0.1", "0.2"]
    assert rows[0] == ["teacher", "0.1000", "0.2000", "0.4000"]


def test_all_of_it_is_json_and_read_back(figures):
    assert Robustness.from_json(json.loads(json.dumps(figures.everything()))) == figures
    assert json.loads(json.dumps(figures.summary()))["areas"]["bits"]["member 000"] == 0.65


def test_it_is_printed_and_drawn_whatever_suites_there_are(figures):
    out = io.StringIO()
    print_robustness(figures, Console(file=out, width=120))
    assert "mean member" in out.getvalue()
    for suites in (figures.suites, figures.suites[1:], figures.suites[:1] * 5):
        drawn = Robustness(**{**vars(figures), "suites": suites})
        text = svg(draw_robustness, drawn, width=8, height=6)
        assert f">{suites[0].name}</text>" in text
        assert "each member" in text
