"""Parameters that no longer learn: a straight-through gradient can be zero everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from bebert_ray.nn.quantizers import UniformQuantizer


@contextmanager
def starved_parameters(model: nn.Module) -> Iterator[list[str]]:
    """Watches the gradients of `model` within the context.

    Binarization passes no gradient to what lies outside of its range: once all of a layer's
    weights, or all that enters a quantizer, have left it, that layer stays as it is. A parameter
    that the loss does not reach at all has no gradient, and is not starved; nor is a learned clip
    that no activation is large enough for.

    Yields:
        A list that holds, at the end, the names of the parameters whose gradient was zero each
        time that there was one.
    """
    starved: list[str] = []
    seen: set[str] = set()
    hungry = {
        f"{path}.{name}".removeprefix("."): parameter
        for path, module in model.named_modules()
        if not isinstance(module, UniformQuantizer)
        for name, parameter in module.named_parameters(recurse=False)
    }

    def look_at(name: str, parameter: Tensor) -> None:
        seen.add(name)
        gradient = parameter.grad
        # Looked at until the first that is not zero, which is the first as a rule.
        if name in hungry and gradient is not None:
            values = gradient._values() if gradient.is_sparse else gradient
            if values.any():
                del hungry[name]

    with ExitStack() as hooks:
        for name, parameter in list(hungry.items()):
            handle = parameter.register_post_accumulate_grad_hook(
                lambda parameter, name=name: look_at(name, parameter)
            )
            hooks.callback(handle.remove)
        yield starved
    starved += sorted(hungry.keys() & seen)
