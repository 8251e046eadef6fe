from __future__ import annotations

import torch
from torch import Tensor, nn

from bebert_ray.nn.functions import lsq, lsq_initial_step, uniform
from bebert_ray.nn.quantizers import (
    LsqQuantizer,
    UniformQuantizer,
    activation_quantizer,
    calibrate_,
)


class TwoInARow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second = LsqQuantizer(4, symmetric=False)  # registered before the one it follows
        self.first = LsqQuantizer(4)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu())
        if self.fail:
            raise RuntimeError("interrupted")
        return y


def test_calibration_sets_each_step_from_what_the_quantizer_meets() -> None:
    model, x = TwoInARow(), torch.randn(8, 16)
    calibrate_(model, {"x": x})
    first = lsq_initial_step(x, 4, symmetric=True)
    second = lsq_initial_step(lsq(x, first, 4, symmetric=True).relu(), 4, symmetric=False)
    assert model.first.step.item() == first.item() != 1
    assert model.second.step.item() == second.item() != 1


def test_calibration_leaves_no_hooks_even_when_it_fails() -> None:
    for fail in (False, True):
        model = TwoInARow()
        model.fail = fail
        try:
            calibrate_(model, {"x": torch.randn(8, 16)})
        except RuntimeError:
            assert fail
        steps = model.first.step.item(), model.second.step.item()
        model.fail = False
        model(torch.randn(8, 16) * 100)
        assert (model.first.step.item(), model.second.step.item()) == steps
        assert model.first.step.requires_grad


def test_calibration_without_lsq_does_not_even_run_the_model() -> None:
    calibrate_(nn.Sequential(UniformQuantizer(8)), {"no": torch.zeros(1)})


def test_eight_bits_are_uniform_and_fewer_are_lsq() -> None:
    for symmetric in (True, False):
        eight, four = activation_quantizer(8, symmetric), activation_quantizer(4, symmetric)
        assert isinstance(eight, UniformQuantizer)
        assert isinstance(four, LsqQuantizer)
        x = torch.randn(2, 3, 16)
        assert torch.equal(eight(x), uniform(x, torch.tensor([-2.5, 2.5]), 8, symmetric))
        assert torch.equal(four(x), lsq(x, torch.tensor(1.0), 4, symmetric))
        assert repr(four) == f"LsqQuantizer(bits=4, symmetric={symmetric})"
        assert repr(eight) == f"UniformQuantizer(bits=8, symmetric={symmetric})"
