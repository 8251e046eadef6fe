"""Pictures: whole, in the colours of the page, and the same for the same run."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from bebert_ray.reporting.charts import (
    DARK,
    LIGHT,
    draw_losses,
    draw_pairs,
    draw_scores,
    draw_weights,
    png,
    svg,
)


@pytest.fixture(params=["scores", "weights", "losses", "pairs"])
def picture(request, results):
    """How to draw each kind of picture, and of what."""
    uniform, skewed = np.full(100, 0.01), np.arange(100) / 4950
    match request.param:
        case "scores":
            return draw_scores, results
        case "weights":
            return draw_weights, {"000": [uniform, skewed], "001": [uniform, skewed]}
        case "losses":
            return draw_losses, {"teacher": [[(1, 0.5), (2, 0.25)]], "members": [[(1, 1.0)]] * 2}
    return draw_pairs, [(0.0, 0.5), (5.0, 4.5)]


def test_a_picture_is_one_element_in_the_colours_of_the_page(picture):
    text = svg(*picture, width=5, height=3)
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert {"ink", "rule"} <= used <= set(LIGHT)
    assert not re.search(r"#[0-9a-f]{6}", text), "a colour that a dark page would not change"
    assert "<style" not in text
    assert "<metadata" not in text


def test_a_picture_is_the_same_for_the_same_run(picture):
    assert svg(*picture, width=5, height=3) == svg(*picture, width=5, height=3)


def test_names_in_one_page_do_not_clash(results):
    texts = [
        svg(draw_scores, results, width=5, height=3),
        svg(draw_pairs, [(0.0, 0.5), (5.0, 4.5)], width=5, height=3),
    ]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    assert not ids[0] & ids[1]
    for text, there in zip(texts, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) <= there


def test_every_colour_has_its_dark_counterpart():
    assert LIGHT.keys() == DARK.keys()


def test_members_are_numbered_however_many_they_are(results):
    weights = {f"{i:03d}": [np.full(10, 0.1)] for i in range(40)}
    text = svg(draw_weights, weights, width=9, height=3)
    assert ">000<" in text
    assert ">039<" in text
    assert len(re.findall(r">0\d\d<", text)) <= 16


def test_a_picture_of_its_own_is_a_png(results):
    assert png(draw_scores, results, title="sst2").startswith(b"\x89PNG")


def test_no_loss_is_cut_off():
    figure = Figure()
    panels = {"ternary": [[(1, 3.0), (2, 2.0)], [(3, 8.0), (4, math.nan)]], "split": [[(1, 0.0)]]}
    draw_losses(figure, panels)
    high, zero = figure.axes
    assert len(high.lines) == 2
    assert high.get_ylim()[0] == 0
    assert 8.0 < high.get_ylim()[1] < 9.0
    assert zero.get_ylim() == (0, 1)
