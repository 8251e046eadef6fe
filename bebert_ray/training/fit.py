"""The only training loop: batches by example index, mixed precision, the best epoch kept.

It can be left after any step and taken up again, elsewhere, with the same bits.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bebert_ray.data.batches import epoch_batches
from bebert_ray.data.columns import Columns
from bebert_ray.data.copies import Copies
from bebert_ray.errors import Diverged
from bebert_ray.training import parallel
from bebert_ray.training.checkpoints import State
from bebert_ray.training.gradients import parameters_without_gradient
from bebert_ray.training.losses import Loss
from bebert_ray.training.optimizers import linear_schedule, make_optimizers
from bebert_ray.training.predict import batch_on, device_of
from bebert_ray.training.settings import FitSettings
from bebert_ray.training.step import train_step

REPORT_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class Progress:
    """Where a fit stands.

    Attributes:
        epoch: the one at work, from 1, of `epochs`.
        step: steps done, of `steps`.
        loss: mean since the last report; at the end of an epoch, of the epoch.
        learning_rate: of the next step.
        examples_per_second: since this process took the fit up.
        memory: the most that the process has held, in bytes.
        score: the held-out one, where it was measured.
        round: of a member that trains in rounds, from 0.
        without_gradient: parameters that had no gradient in the whole epoch, at its end.
        flipped: share of the binary weights whose sign is not that of the start, at the end of an
            epoch of a member.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    examples_per_second: float
    memory: int
    score: float | None = None
    round: int | None = None
    without_gradient: tuple[str, ...] = ()
    flipped: float | None = None


class Fit:
    """A model in training, which can stop after any step and go on, in this process or another.

    `advance` trains a round of epochs, `finish` ends the training. What a round starts from is the
    model as it is then, the state of the optimizers, and the number of the step: batches and rates
    follow from that and the seed, so `state` is all that another process needs to go on with the
    same bits.

    In a data-parallel group (see `parallel`) each process has a `Fit` of its own, and all take part
    in all that it does. With another number of processes sums round otherwise.

    Args:
        model: what the losses compute with.
        columns: the training examples; a batch's `index` are their rows.
        settings: epochs, rates, seed.
        score: measured at the end of each epoch and every `eval_every` steps, higher is better;
            `finish` takes the weights of the last round's best (the earliest of equals). None takes
            the last.
        phase: number of the fit, where a step has several; part of the state.
        flipped: measured at the end of each epoch, see `Progress`.
        copies: of the training examples. In each epoch one of its copies stands in for an example
            with probability `copy_share`.
    """

    def __init__(
        self,
        model: nn.Module,
        columns: Columns,
        settings: FitSettings,
        *,
        score: Callable[[], float] | None = None,
        phase: int = 0,
        flipped: Callable[[], float] | None = None,
        copies: Copies | None = None,
    ):
        self._copies = copies
        self._model, self._columns, self._settings = model, columns, settings
        self._score, self._phase, self._flipped = score, phase, flipped
        self._device = device_of(model)
        self._optimizers = make_optimizers(model, settings)
        self._rates = [group["lr"] for group in self._groups()]
        self._steps_per_epoch = math.ceil(len(columns) / settings.batch_size)
        most = settings.epochs * self._steps_per_epoch
        self._steps = min(most, settings.max_steps or most)
        self._factor = linear_schedule(self._steps, settings.warmup)
        self._epoch = self._step = self._until = 0  # the step counts within the epoch
        self._best_score: float | None = None
        self._best_step = self._stale = 0  # steps before the best, scores since
        self._best_weights: dict[str, Tensor] | None = None  # kept once the model moves on
        self._started, self._first_step = time.monotonic(), 0
        if settings.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        parallel.align_(model)
        torch.manual_seed(settings.seed + parallel.rank())

    def advance(
        self,
        loss: Loss,
        until: int,
        sample_weight: np.ndarray | None = None,
        *,
        repeats: np.ndarray | None = None,
        report: Callable[[Progress], None] = lambda _: None,
        keep: Callable[[State], None] = lambda _: None,
    ) -> None:
        """Train the round that ends with epoch `until`, or what is left of it.

        Args:
            loss: from a batch to a scalar.
            until: epochs done at the end of the round.
            sample_weight: [n] sums to 1; each epoch then draws n examples with these
                probabilities. None: every example once.
            repeats: [n], how often each example comes in an epoch, in place of `sample_weight`.
            report: called every few seconds and at the end of each epoch.
            keep: given the state at the end of each epoch and every `checkpoint_every` steps.

        Ends early after `max_steps` steps of all rounds, and after `patience` scores without a
        better one.

        Raises:
            Diverged: the loss is no longer finite.
        """
        if until > self._until and not self._is_over():  # else the round before it was the last
            self._until, self._best_score, self._best_weights = until, None, None
            self._stale = 0
        self._started, self._first_step = time.monotonic(), self._total_steps
        while self._epoch < until and not self._is_over():
            self._train_epoch(loss, sample_weight, repeats, report, keep)
        self._model.eval()

    def finish(self) -> float | None:
        """Put the weights of the last round's best epoch into the model, for evaluation.

        Returns:
            The score of that epoch, or None without `score`.
        """
        if self._best_weights is not None:
            self._model.load_state_dict(self._best_weights)
            self._best_weights = None
        self._model.eval()
        return self._best_score

    def state(self) -> State:
        """All that another process needs to go on; the tensors are those in use, not copies."""
        tensors = {f"model.{name}": value for name, value in self._model.state_dict().items()}
        for name, value in (self._best_weights or {}).items():
            tensors[f"best.{name}"] = value
        counts: dict[str, float] = {}
        for o, optimizer in enumerate(self._optimizers):
            for p, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    place = tensors if isinstance(value, Tensor) else counts
                    place[f"optimizer.{o}.{p}.{name}"] = value
        # A row for each process.
        tensors["rng.cpu"] = parallel.gather(torch.get_rng_state()[None])
        if self._device.type == "cuda":
            tensors["rng.cuda"] = parallel.gather(torch.cuda.get_rng_state(self._device)[None])
        facts = {
            "phase": self._phase,
            "epoch": self._epoch,
            "step": self._step,
            "until": self._until,
            "best_score": self._best_score,
            "best_step": self._best_step,
            "stale": self._stale,
            "counts": counts,
        }
        return State(facts, tensors)

    def restore(self, state: State) -> None:
        """Go on where `state` was taken; the model must have been made in the same way."""
        facts, groups = state.facts, _by_first_word({**state.tensors, **state.facts["counts"]})
        self._model.load_state_dict(groups["model"])
        optimizers = _by_first_word(groups.get("optimizer", {}))
        for o, optimizer in enumerate(self._optimizers):
            states = {
                int(p): values for p, values in _by_first_word(optimizers.get(str(o), {})).items()
            }
            same = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": same})
        rank, generators = parallel.rank(), groups["rng"]
        if rank < len(generators["cpu"]):  # else it is new, and has a seed of its own
            # Copies: torch crashes on a state that does not begin its memory.
            torch.set_rng_state(generators["cpu"][rank].clone())
            if "cuda" in generators and self._device.type == "cuda":
                torch.cuda.set_rng_state(generators["cuda"][rank].clone(), self._device)
        self._epoch, self._step, self._until = facts["epoch"], facts["step"], facts["until"]
        self._best_score, self._stale = facts["best_score"], facts.get("stale", 0)
        # States of version 0.1 name the epoch.
        before = facts.get("best_epoch", 0) * self._steps_per_epoch
        self._best_step = facts.get("best_step", before)
        self._best_weights = groups.get("best")

    def _groups(self) -> list[dict[str, Any]]:
        # Not to be kept: an optimizer that loads a state has new ones.
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    @property
    def _total_steps(self) -> int:
        return min(self._steps, self._epoch * self._steps_per_epoch + self._step)

    def _is_over(self) -> bool:
        patience = self._settings.patience
        return self._total_steps == self._steps or (
            patience is not None and self._stale >= patience
        )

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self._total_steps % every == 0

    def _measure(self) -> float | None:
        """The score of the model as it is; whether it is the best is remembered."""
        if self._score is None:
            return None
        self._model.eval()
        score, self._stale = self._score(), self._stale + 1
        if self._best_score is None or score > self._best_score:
            self._best_score, self._best_step, self._best_weights = score, self._total_steps, None
            self._stale = 0
        self._model.train()
        return score

    def _save_best(self) -> None:
        # Before the model moves on from the best; until then, the best is the model itself.
        is_best = self._best_score is not None and self._best_step == self._total_steps
        if is_best and self._best_weights is None:
            self._best_weights = {
                name: tensor.clone() for name, tensor in self._model.state_dict().items()
            }

    def _train_epoch(
        self,
        loss: Loss,
        sample_weight: np.ndarray | None,
        repeats: np.ndarray | None,
        report: Callable[[Progress], None],
        keep: Callable[[State], None],
    ) -> None:
        settings, columns = self._settings, self._columns
        rng = np.random.default_rng([settings.seed, self._epoch])
        if self._copies is not None:
            columns = self._copies.mix(columns, settings.copy_share, rng)
        batches = epoch_batches(columns.lengths, settings.batch_size, rng, sample_weight, repeats)
        batches = batches[: self._steps - self._epoch * self._steps_per_epoch]
        losses: list[Tensor] = []  # of the epoch, as far as this process trains it
        reported, last_report = 0, time.monotonic()
        whole = self._step == 0
        self._model.train()
        with parameters_without_gradient(self._model) as without_gradient:
            for index in batches[self._step :]:
                for group, rate in zip(self._groups(), self._rates, strict=True):
                    group["lr"] = rate * self._factor(self._total_steps)
                self._save_best()
                batch = batch_on(self._device, columns, index)
                losses.append(train_step(self._model, loss, batch, self._optimizers, settings))
                self._step += 1
                if self._step == len(batches):
                    break
                score = self._measure() if self._is_due(settings.eval_every) else None
                if score is not None or time.monotonic() - last_report > REPORT_EVERY:
                    last_report = time.monotonic()
                    report(replace(self._progress(losses[reported:]), score=score))
                    reported = len(losses)
                if self._is_over():
                    keep(self.state())
                    return
                if self._is_due(settings.checkpoint_every):
                    keep(self.state())
        progress = replace(
            self._progress(losses), without_gradient=tuple(without_gradient if whole else ())
        )
        if self._flipped is not None:
            progress = replace(progress, flipped=self._flipped())
        self._epoch, self._step = self._epoch + 1, 0
        progress = replace(progress, score=self._measure())
        keep(self.state())
        report(progress)

    def _progress(self, losses: list[Tensor]) -> Progress:
        loss = torch.stack(losses).mean().item()
        done, steps = self._total_steps, self._steps
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at step {done}; a lower learning rate may help")
        examples = (done - self._first_step) * self._settings.batch_size
        return Progress(
            epoch=self._epoch + 1,
            epochs=self._settings.epochs,
            step=done,
            steps=steps,
            loss=loss,
            learning_rate=float(self._rates[0] * self._factor(done)),
            examples_per_second=examples / (time.monotonic() - self._started),
            memory=peak_memory(self._device),
        )


def peak_memory(device: torch.device) -> int:
    """The most memory, in bytes, that this process has held: of the GPU if it uses one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _by_first_word(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"a.x": 1, "a.y": 2}` as `{"a": {"x": 1, "y": 2}}`."""
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        first, _, rest = key.partition(".")
        nested.setdefault(first, {})[rest] = value
    return nested
