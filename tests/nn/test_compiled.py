"""Compiled functions against eager ones; the compiler takes seconds for each the first time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bebert_ray.nn import compiled
from bebert_ray.nn.binary import center_binarize, elastic, sign
from bebert_ray.nn.functions import binarize, binarize_sum, lsq, ternarize, uniform

ROWS, COLUMNS = 130, 257  # no multiples of a vector, and more numbers than `SMALLEST`


def numbers(seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(ROWS, COLUMNS, generator=generator)


CLIP, STEP, THRESHOLD = torch.tensor([-1.5, 1.0]), torch.tensor(0.3), torch.tensor(0.1)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "lsq": (lambda x, s: lsq(x, s, 4, True), (numbers(1), STEP)),
    "lsq, 2 bits, never negative": (lambda x, s: lsq(x, s, 2, False), (numbers(1).abs(), STEP)),
    "uniform": (lambda x, c: uniform(x, c, 8, True), (numbers(2), CLIP)),
    "uniform, never negative": (lambda x, c: uniform(x, c, 8, False), (numbers(2), CLIP)),
    "binarize": (binarize, (numbers(3),)),
    "binarize, rows": (lambda w: binarize(w, per_row=True), (numbers(3),)),
    "binarize_sum": (binarize_sum, (numbers(3), numbers(4))),
    "ternarize": (ternarize, (numbers(5, 0.05),)),
    "ternarize, rows": (lambda w: ternarize(w, per_row=True), (numbers(5, 0.05),)),
    "center_binarize": (center_binarize, (numbers(6),)),
    "sign": (lambda x: sign(x, scaled=True), (numbers(7),)),
    "elastic": (lambda x, a, b: elastic(x, a, b, True), (numbers(8), STEP, THRESHOLD)),
    "elastic, two sets": (lambda x, a, b: elastic(x, a, b, False), (numbers(8), STEP, THRESHOLD)),
}


def outcome(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], dtype: torch.dtype
) -> list[Tensor]:
    leaves = [
        each.detach().to(dtype if each.dim() > 1 else each.dtype).clone().requires_grad_()
        for each in inputs
    ]
    out = function(*leaves)
    out.backward(numbers(9).bfloat16().to(out.dtype))  # the same in either type
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


FAST = ("lsq", "uniform", "binarize_sum")  # each takes seconds


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FUNCTIONS],
)
def test_compiled_functions_agree_with_eager_ones(name: str, compiler: None) -> None:
    function, inputs = FUNCTIONS[name]
    fast = outcome(function, inputs, torch.float32)
    assert compiled.uses_compiler()  # it did not fail
    compiled.use_compiler_(False)
    slow = outcome(function, inputs, torch.float32)
    assert torch.equal(fast[0], slow[0])  # what a model computes does not depend on the compiler
    for ours, theirs in zip(fast[1:], slow[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_differs_by_roundings(compiler: None) -> None:
    # Eager operators round to bfloat16 after each, one kernel rounds once: a few values between two
    # levels go to the other one.
    function, inputs = FUNCTIONS["lsq"]
    with torch.autocast("cpu", torch.bfloat16):
        fast = outcome(function, inputs, torch.bfloat16)
    assert compiled.uses_compiler()
    compiled.use_compiler_(False)
    slow = outcome(function, inputs, torch.bfloat16)
    assert [each.dtype for each in fast] == [each.dtype for each in slow]
    apart = (fast[0].float() - slow[0].float()).abs()
    assert apart.max() < 1.1 * STEP
    assert (apart > 0.02).float().mean() < 0.02
    torch.testing.assert_close(fast[2], slow[2], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["lsq", "uniform", "binarize_sum", "elastic"])
def test_under_autocast_values_have_the_type_of_the_product(name: str, compiler: None) -> None:
    """They are the float32 values, rounded; what learns from them stays in float32."""
    function, inputs = FUNCTIONS[name]

    def half(*leaves: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return function(*leaves)

    compiled.use_compiler_(False)
    wanted = outcome(half, inputs, torch.float32)
    compiled.use_compiler_(True)
    found = outcome(half, inputs, torch.float32)
    assert (wanted[0].dtype, found[0].dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(found[0], wanted[0].bfloat16())
    for gradient, other in zip(found[1:], wanted[1:], strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gpu_is_not_waited_for_and_agrees_with_the_cpu(
    name: str, fast: bool, compiler: None
) -> None:
    function, inputs = FUNCTIONS[name]
    compiled.use_compiler_(False)
    expected = outcome(function, inputs, torch.float32)
    compiled.use_compiler_(fast)
    moved = [each.cuda().requires_grad_() for each in inputs]
    gradient = numbers(9).cuda()
    function(*moved).backward(gradient)  # compiles
    for each in moved:
        each.grad = None
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = function(*moved)
        out.backward(gradient)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [out.detach(), *(each.grad for each in moved if each.grad is not None)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-4)


def test_one_compilation_serves_all_shapes_and_widths(compiler: None) -> None:
    def check(x: Tensor, bits: int) -> None:
        out = lsq(x, STEP, bits, True)
        compiled.use_compiler_(False)
        assert torch.equal(out, lsq(x, STEP, bits, True))
        compiled.use_compiler_(True)

    lsq(numbers(1), STEP, 4, True)
    torch._dynamo.config.error_on_recompile = True
    try:
        with torch.no_grad():
            check(numbers(1), 2)
            check(torch.randn(3, 2, 64, 128).transpose(1, 2), 4)
            check(torch.randn(70_001), 8)
    finally:
        torch._dynamo.config.error_on_recompile = False


def test_small_inputs_and_inference_mode_are_not_compiled(compiler: None) -> None:
    calls: list[bool] = []

    @compiled.compiled
    def function(x: Tensor) -> Tensor:
        calls.append(torch.compiler.is_compiling())
        return x

    function(torch.ones(compiled.SMALLEST - 1))
    with torch.inference_mode():
        function(torch.ones(compiled.SMALLEST))
    assert calls == [False, False]


def test_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, compiler: None
) -> None:
    def broken(*_: object, **__: object) -> Callable[..., Tensor]:
        def fail(*_: object) -> Tensor:
            raise RuntimeError("no space left")

        return fail

    monkeypatch.setattr(torch, "compile", broken)

    @compiled.compiled
    def double(x: Tensor) -> Tensor:
        return x * 2

    with pytest.warns(RuntimeWarning, match=r"no space left.*training.compile=off"):
        out = double(torch.ones(compiled.SMALLEST))
    assert out[0] == 2
    assert not compiled.uses_compiler()


def test_without_a_compiler_or_headers_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.find_compiler() is None  # as tests/conftest.py has it
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda _: "/nowhere")
    assert compiled.find_compiler() is None


SCRIPT = """
import json, sys, torch
from bebert_ray.nn.compiled import use_compiler_
from bebert_ray.nn.functions import lsq
torch.set_num_threads(int(sys.argv[2]))
use_compiler_(True)
found = []
for rows in map(int, sys.argv[1].split(",")):
    x = torch.randn(rows, 384, generator=torch.Generator().manual_seed(rows)).requires_grad_()
    step = torch.tensor(0.3, requires_grad=True)
    lsq(x, step, 4, True).mul(x.detach() ** 3).sum().backward()
    found.append(step.grad.item().hex())
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_process_that_goes_on_computes_the_same_bits(
    tmp_path: Path, threads: int, compiler: None
) -> None:
    # Whichever shape comes first, and though the second loads what the first has compiled.
    environment = dict(os.environ) | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    def run(rows: str) -> list[str]:
        command = [sys.executable, "-c", SCRIPT, rows, str(threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found: list[str] = json.loads(done.stdout)
        return found

    first, second = run("2048,100,700"), run("100,700,2048")
    assert dict(zip("abc", first, strict=True)) == dict(zip("bca", second, strict=True))
