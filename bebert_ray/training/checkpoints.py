"""The state of an unfinished step, kept so that another process can go on with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from bebert_ray.storage import (
    Artifact,
    Location,
    commit,
    discard,
    discard_below,
    fetch,
    find,
    names,
)
from bebert_ray.training import parallel

STATE = "state.safetensors"


@dataclass(frozen=True)
class State:
    """Facts, as JSON, and named tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class Checkpoints:
    """The checkpoints of one step: numbered artifacts, of which the newest counts.

    Attributes:
        place: the directory they are in.
        inputs: all that the step's outcome depends on, as JSON.
        earlier: inputs of the steps that this one continues, whose checkpoints serve as well.
        note: called with a message for each damaged checkpoint.
    """

    place: Location
    inputs: dict[str, Any]
    earlier: tuple[dict[str, Any], ...] = ()
    note: Callable[[str], None] = lambda _: None
    _started: float = field(default_factory=time.monotonic)

    @cached_property
    def found(self) -> Artifact | None:
        """The newest that is whole, as it was when this was first asked for.

        The processes of a data-parallel group must all ask, and go on from the same: the first one
        chooses.
        """
        chosen = parallel.once(self._newest)
        # From an object store each machine has a copy of its own.
        return fetch(chosen.location) if chosen and parallel.rank() > 0 else chosen

    def _newest(self) -> Artifact | None:
        for number in sorted(self._numbers(), reverse=True):
            place = self.place / str(number)
            for inputs in (self.inputs, *reversed(self.earlier)):
                checkpoint = find(place, inputs)
                if isinstance(checkpoint, Artifact):
                    return checkpoint
                if checkpoint.reason.startswith("damaged"):
                    self.note(f"{place} is {checkpoint.reason}; going on without it")
                    break
        return None

    def load(self) -> State:
        """The state that was `found`.

        Its tensors have memory of their own: what is computed with them does not depend on their
        having been in a file.
        """
        assert self.found is not None
        tensors = safetensors.torch.load_file(self.found.path / STATE)
        return State(self.found.facts, {name: tensor.clone() for name, tensor in tensors.items()})

    @property
    def seconds(self) -> float:
        """How long the step has taken so far, in this process and in those before it."""
        before = self.found.facts["seconds"] if self.found else 0.0
        return float(before + time.monotonic() - self._started)

    def save(self, state: State) -> None:
        """Keep a state, and those before it no longer."""
        older = self._numbers()
        facts = state.facts | {"seconds": self.seconds}

        def write(draft: Path) -> Mapping[str, Any]:
            tensors = {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}
            safetensors.torch.save_file(tensors, draft / STATE)
            return facts

        commit(self.place / str(max(older, default=-1) + 1), "checkpoint", self.inputs, write)
        for number in older:
            discard(self.place / str(number), (STATE,))

    def clear(self) -> None:
        """Delete them all: the step is done."""
        discard_below(self.place, (STATE,))

    def _numbers(self) -> list[int]:
        return [int(name) for name in names(self.place) if name.isdecimal()]
