from __future__ import annotations

import torch
from torch import nn

from bebert_ray.nn.quantizers import LsqQuantizer, UniformQuantizer
from bebert_ray.training.gradients import parameters_without_gradient


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "table": nn.Embedding(5, 3, sparse=True),
            "used": nn.Linear(3, 2),
            "dead": nn.Linear(3, 2),
            "unreached": nn.Linear(3, 2),
        }
    )


def step(model: nn.ModuleDict, alive: bool = False) -> None:
    x = model["table"](torch.tensor([1, 2]))
    loss = model["used"](x).sum() + model["dead"](x).sum() * float(alive)
    loss.backward()
    model.zero_grad()


def test_those_without_a_gradient_are_named() -> None:
    model = network()
    with parameters_without_gradient(model) as without_gradient:
        for _ in range(3):
            step(model)
    assert without_gradient == ["dead.bias", "dead.weight"]


def test_one_gradient_in_an_epoch_will_do() -> None:
    model = network()
    with parameters_without_gradient(model) as without_gradient:
        for alive in (False, True, False):
            step(model, alive)
    assert without_gradient == []


def test_nothing_is_watched_afterwards() -> None:
    model = network()
    with parameters_without_gradient(model) as without_gradient:
        step(model, alive=True)
    step(model)
    assert without_gradient == []
    with parameters_without_gradient(model) as without_gradient:
        step(model)
    assert without_gradient == ["dead.bias", "dead.weight"]


def test_a_clip_that_is_wide_enough_for_all_is_not_starved() -> None:
    for quantizer, expected in ((UniformQuantizer(8), []), (LsqQuantizer(4), ["0.step"])):
        model = nn.Sequential(quantizer)
        with parameters_without_gradient(model) as without_gradient:
            model(torch.zeros(4, requires_grad=True)).sum().backward()
        assert without_gradient == expected
