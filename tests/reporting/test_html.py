"""The page: what is on it, and that it needs nothing but itself."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from bebert_ray.pipeline.results import Packed
from bebert_ray.reporting.html import confusion, loss_curves, page, read_weights, shares
from bebert_ray.storage import Location, write_atomic


def event(stage, kind, **more):
    return {"kind": kind, "stage": stage, "round": None, **more}


def progress(stage, step, steps, loss):
    return event(stage, "progress", step=step, steps=steps, loss=loss)


@pytest.fixture
def run(tmp_path):
    """A run directory with events and weights."""
    events = [
        progress("teacher", 1, 2, 0.75),
        progress("teacher", 2, 2, 0.25),
        event("teacher", "note", text="a <b>note</b>"),
        event("half", "restart", node="", reason="killed", attempt=1, limit=3),
        progress("member 000", 1, 1, 0.5),
    ]
    write_atomic(tmp_path / "metrics.jsonl", "".join(json.dumps(each) + "\n" for each in events))
    for name in ("000", "001", "001-round-0", "001-round-1", "001-round-10", "000-fold-1", "007"):
        content = io.BytesIO()
        np.save(content, np.full(8, 1 / 8))
        write_atomic(tmp_path / "weights" / f"{name}.npy", content.getvalue())
    return Location.of(tmp_path)


class Page(HTMLParser):
    """Text and links of a page; fails where tags do not match."""

    VOID = ("meta", "br", "img")

    def __init__(self, content):
        super().__init__()
        self.open, self.words, self.links = [], [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        names = ("src", "href", "xlink:href", "action", "srcset", "data")
        self.links += [value for name, value in attributes if name in names]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_a_page_shows_the_run(results, run):
    text = Page(page(results, run)).text
    for words in (
        "sst2, an ensemble of 2",
        "0.5700 dev accuracy of the ensemble",
        "0.9200 of the full-precision teacher",
        "2.00 MB counted, 50.0 times smaller",
        "3 h 06 min",
        "<negative> 30 75.0% 10 25.0%",
        "positive 0 0.0% 1,200 100.0%",
        "member 001 0.4200 0.4100 0.4000 0.400 0.500",
        "member 000 7.2",
        "a <b>note</b>",
        "its process died (killed); attempt 1 of 3 went on",
        "members: 2",
        "torch 2",
    ):
        assert words in text, words


def test_a_page_needs_nothing_but_itself(results, run):
    content = page(results, run)
    assert all(link.startswith("#") for link in Page(content).links)
    assert not re.search(r"url\((?!#)|@import|<script|<link", content)
    assert "prefers-color-scheme: dark" in content


def test_the_same_run_has_the_same_page(results, run):
    before = page(results, run)
    with (run.local / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "start", "stage": "driver", "node": "x", "pid": 2}) + "\n")
    assert page(results, run) == before


def test_what_a_reader_must_know_is_said(results, run):
    text = Page(page(replace(results, selection="dev", note="boosting ends"), run)).text
    assert "Choices were made on the split that is reported" in text
    assert "boosting ends" in text
    assert "held-out" not in text


def test_gains_over_the_baselines_stand_on_the_page(results, run):
    assert "What the ensemble gains" not in Page(page(results, run)).text
    baselines = {"mean member": {"score": 0.5, "p": 0.031}, "split": {"score": 0.6, "p": None}}
    diversity = {"disagreement": 0.05, "error_correlation": 0.45}
    told = replace(results, baselines=baselines, diagnostics=diversity)
    text = Page(page(told, run)).text
    assert "mean member 0.5000 +0.0700 0.031 split 0.6000 -0.0300" in text
    assert "differ in 5.0% of their predictions, and their errors correlate by 0.45" in text
    scores = replace(
        told, classes=None, predictions=[(0.5, 0.75)], diagnostics={"error_correlation": 0.45}
    )
    assert "Errors of two members correlate by 0.45" in Page(page(scores, run)).text


def test_the_packed_model_is_told_of(results, run):
    sizes = {"weights": 400_000, "scales": 50_000, "floats": 500_000, "file": 1_000_000}
    packed = Packed("fp16", sizes, results.scores, 0.001234)
    text = Page(page(replace(results, packed=packed), run)).text
    assert "1.00 MB on disk, 100.0 times smaller" in text
    assert "binary weights 0.40, scales 0.05, floats (fp16) 0.50" in text
    assert "a logit of a member differs by 0.0012 from the one that was scored" in text
    same = Page(page(replace(results, packed=replace(packed, logit_difference=0.0)), run)).text
    assert "differs by" not in same


def test_scores_are_drawn_instead_of_counted(results, run):
    stsb = replace(results, classes=None, predictions=[(0.5, 0.75), (4.5, 5.0)])
    content = page(stsb, run)
    assert "prediction of the ensemble" in Page(content).text
    assert "Confusion" not in content
    assert confusion(stsb) == []


def test_a_run_without_records_has_a_page(results, tmp_path):
    content = page(results, Location.of(tmp_path))
    assert "Training loss" not in content
    assert "What members train with" not in content
    assert "Restarts and notes" not in content


def test_weights_are_those_of_members_round_by_round(results, run):
    weights = read_weights(results, run)
    assert {number: len(rounds) for number, rounds in weights.items()} == {"000": 1, "001": 4}
    for round in ("0", "1", "10"):
        content = io.BytesIO()
        np.save(content, np.full(8, float(round)))
        write_atomic(run / "weights" / f"001-round-{round}.npy", content.getvalue())
    assert [weight[0] for weight in read_weights(results, run)["001"]] == [0, 1, 10, 1 / 8]


def test_curves_follow_what_was_trained_last():
    assert loss_curves(
        [
            # Two fits, the first of which was taken up again from a checkpoint.
            progress("ternary", 5, 10, 0.9),
            progress("ternary", 8, 10, 0.8),
            progress("ternary", 7, 10, 0.7),
            progress("ternary", 10, 10, 0.6),
            progress("ternary", 1, 4, 0.5),
            event("ternary", "done"),
            progress("member 000", 1, 2, 0.4),
            event("member 000", "done"),
            progress("member 000 fold 1", 1, 2, 0.1),
            progress("member 001", 1, 2, 0.3),
            progress("member 000", 2, 2, 0.2),  # made anew
        ]
    ) == {
        "ternary": [[(5, 0.9), (7, 0.7), (10, 0.6)], [(11, 0.5)]],
        "members": [[(2, 0.2)], [(1, 0.3)]],
    }


def test_many_members_share_a_line(results):
    assert [share.name for share in shares(results)] == [
        *("teacher", "half", "ternary", "member 000", "member 001", "all members")
    ]
    many = shares(replace(results, members=results.members * 50))
    assert [share.name for share in many] == ["teacher", "half", "ternary", "all members"]
    assert (many[-1].bits, many[-1].seconds) == (800_000_000, 762.5)
