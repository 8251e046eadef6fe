"""What a run ends with."""

import json
from dataclasses import replace

import pytest

from bebert_ray.pipeline.results import Packed, Results, to_json


@pytest.fixture
def results(mnli_results):
    return mnli_results


def test_the_summary_has_the_keys_that_scripts_count_on(results):
    assert results.summary() == {
        "run": "/runs/mnli",
        "task": "mnli",
        "metric": "accuracy",
        "teacher": pytest.approx(0.92),
        "half": pytest.approx(0.82),
        "ternary": pytest.approx(0.72),
        "members": [pytest.approx(0.52), pytest.approx(0.42)],
        "alphas": [1.5, 0.5],
        "ensemble": pytest.approx(0.57),
        "seconds": {
            "teacher": 10.0,
            "half": 20.1,
            "ternary": 30.1,
            "members": [7.2, 8.0],
        },
        "selection": "holdout",
        "seed": 42,
    }


def test_the_summary_is_one_line_of_strict_json(results):
    line = to_json(results.summary())
    assert "\n" not in line
    assert json.loads(line) == results.summary()
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": float("nan")})


def test_everything_holds_all_splits_sizes_and_the_configuration(results):
    everything = results.everything()
    assert everything["ensemble"] == results.summary()["ensemble"]
    models = {model["name"]: model for model in everything["models"]}
    assert list(models) == ["teacher", "half", "ternary", "member 000", "member 001"]
    assert models["member 000"]["error"] == 0.2
    assert "alpha" not in models["teacher"]
    assert models["half"]["scores"]["dev_mismatched"]["f1"] == pytest.approx(0.831)
    assert everything["staged"][1] == results.scores
    assert everything["config"] == {"task": "mnli"}
    assert json.loads(to_json(everything, indent=2)) == everything


SIZES = {"weights": 10_620_000, "file": 12_970_000}
PACKED = Packed("fp16", SIZES, {"dev_matched": {"accuracy": 0.57}}, 0.001234)


@pytest.mark.parametrize("packed", [None, PACKED])
@pytest.mark.parametrize("classes", [("entailment", "neutral", "contradiction"), None])
def test_results_are_read_back(results, packed, classes):
    results = replace(results, packed=packed, classes=classes)
    assert Results.from_json(json.loads(to_json(results.everything(), indent=2))) == results


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "newer version"),
        ({"version": "x"}, "newer version"),
        ({"version": None}, "newer version"),
        ({"models": []}, "missing or wrong"),
        ({"models": [{"name": "teacher", "what": 1}] * 5}, "missing or wrong"),
        ({"packed": {"bytes": 1}}, "missing or wrong"),
        ({"predictions": {"labels": [1], "ensemble": []}}, "shorter"),
        ({"ensemble": 0.1}, "contradict"),
        ({"members": []}, "missing or wrong|contradict"),
    ],
)
def test_other_content_is_refused(results, change, message):
    with pytest.raises(ValueError, match=message):
        Results.from_json(results.everything() | change)


def test_content_of_an_older_version_and_with_less_is_refused(results):
    content = results.everything()
    for key in ("version", "classes", "config", "staged", "seed"):
        fewer = {name: value for name, value in content.items() if name != key}
        with pytest.raises(ValueError, match="older version" if key == "version" else key):
            Results.from_json(fewer)


def test_scores_are_attributes(results):
    assert results.ensemble == pytest.approx(0.57)
    assert results.start == results.summary()["ternary"]
    assert results.teacher == pytest.approx(0.92)
    assert results.member_scores == [pytest.approx(0.52), pytest.approx(0.42)]
    assert results.mean_member == pytest.approx(0.47)
    assert results.alphas == [1.5, 0.5]
    assert results.seconds == pytest.approx(75.49)
    assert results.model is None
    assert replace(results, packed=PACKED).model == "/runs/mnli/model"


def test_the_rows_of_the_table(results):
    rows = results.table()
    assert [row["model"] for row in rows] == [
        *("teacher", "half", "ternary", "member 000", "member 001", "ensemble of 2")
    ]
    assert {tuple(row) for row in rows} == {
        (
            *("model", "dev matched accuracy", "dev matched f1", "dev mismatched accuracy"),
            *("dev mismatched f1", "held-out accuracy", "train accuracy", "error", "alpha"),
            *("MB", "smaller", "seconds"),
        )
    }
    ensemble = rows[-1]
    assert (ensemble["MB"], ensemble["smaller"]) == (2.0, 50.0)
    assert ensemble["dev mismatched f1"] == pytest.approx(0.581)
    assert (ensemble["alpha"], rows[3]["alpha"]) == (None, 1.5)
    assert "held-out accuracy" not in replace(results, selection="dev").table()[0]


def test_flips_are_in_the_table_of_members_that_tell_them(results):
    members = [replace(member, flipped=0.0125) for member in results.members]
    rows = replace(results, members=members).table()
    assert [row["flipped"] for row in rows] == [None, None, None, 0.0125, 0.0125, None]
    again = Results.from_json(json.loads(to_json(replace(results, members=members).everything())))
    assert again.members == members


def test_a_frame_and_a_notebook_show_the_table(results):
    frame = results.to_pandas()
    assert frame.loc["half", "MB"] == 25.0
    assert list(frame.index)[-1] == "ensemble of 2"
    html = replace(results, note="<ends>")._repr_html_()
    assert "&lt;ends&gt;" in html
    assert "0.8200" in html
    assert "nan" not in html.lower()


def test_numbers_take_one_line_and_the_rest_is_indented(results):
    value = {"a": [1, 2.5, -1e-7], "b": [[1, 0], []], "c": ["[\n 1\n]"], "d": {"e": [None, True]}}
    text = to_json(value, indent=2)
    assert json.loads(text) == value
    assert '"a": [1, 2.5, -1e-07],' in text
    assert len(text.splitlines()) == 13
