"""Finds parameters that no longer learn: a straight-through gradient can be zero everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from bebert_ray.nn.quantizers import UniformQuantizer


@contextmanager
def parameters_without_gradient(model: nn.Module) -> Iterator[list[str]]:
    """Lists the parameters whose gradient is zero in every backward pass within the context.

    Binarization passes no gradient to values outside of its range: once all weights of a layer, or
    all inputs of a quantizer, have left it, that layer does not change any more. Parameters that
    the loss does not reach have no gradient at all, and are not listed. Learned clips are not
    listed either: their gradient is zero while no activation is large enough.

    Yields:
        A list that holds, at the end, the names of the parameters whose gradient was zero each
        time that there was one.
    """
    without_gradient: list[str] = []
    seen: set[str] = set()
    waiting = {
        f"{path}.{name}".removeprefix("."): parameter
        for path, module in model.named_modules()
        if not isinstance(module, UniformQuantizer)
        for name, parameter in module.named_parameters(recurse=False)
    }

    def look_at(name: str, parameter: Tensor) -> None:
        seen.add(name)
        gradient = parameter.grad
        # Until the first gradient that is not zero: as a rule, that is the first one.
        if name in waiting and gradient is not None:
            values = gradient._values() if gradient.is_sparse else gradient
            if values.any():
                del waiting[name]

    with ExitStack() as hooks:
        for name, parameter in list(waiting.items()):
            handle = parameter.register_post_accumulate_grad_hook(
                lambda parameter, name=name: look_at(name, parameter)
            )
            hooks.callback(handle.remove)
        yield without_gradient
    without_gradient += sorted(waiting.keys() & seen)
