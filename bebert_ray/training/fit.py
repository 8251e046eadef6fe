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

from bebert_ray.data.batches import collate, epoch_batches, eval_batches
from bebert_ray.data.columns import Columns
from bebert_ray.data.copies import Copies
from bebert_ray.errors import Diverged
from bebert_ray.nn.layers import BinaryLinear, SplitLinear
from bebert_ray.nn.quantizers import LEARNED
from bebert_ray.training import parallel
from bebert_ray.training.checkpoints import State
from bebert_ray.training.gradients import parameters_without_gradient
from bebert_ray.training.losses import Batch, Loss, inputs_of

REPORT_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class FitSettings:
    """How to fit: the numbers of one stage, and those that all stages share."""

    epochs: int
    learning_rate: float
    batch_size: int = 32
    seed: int = 42
    precision: str = "bf16"
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    quantizer_learning_rate: float = 1e-4
    latent_rate: float = 1.0
    copy_share: float = 0.5
    checkpoint_every: int = 500
    accumulate: int = 1
    max_steps: int | None = None
    eval_every: int | None = None
    patience: int | None = None
    gradient_checkpointing: bool = False


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


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; a GPU copies it from pinned memory while the CPU goes on."""
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bfloat16 if `precision` is bf16; all else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


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
        if until > self._until:
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
                batch = to_device(collate(columns, index), self._device)
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


def train_step(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
    settings: FitSettings,
) -> Tensor:
    """One step: forward, backward, clip, update. Returns the loss, [].

    In a data-parallel group each process computes with its share of the batch, and all get what
    the whole batch gives.
    """
    batch, part = parallel.share(batch)
    value = accumulate_(model, loss, batch, settings, part)
    parallel.sum_gradients_(model, part)
    clip_gradients_(model, settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return parallel.total(value)


def accumulate_(
    model: nn.Module, loss: Loss, batch: Batch, settings: FitSettings, part: float = 1.0
) -> Tensor:
    """Add up the gradients of a batch, computed in `settings.accumulate` pieces one after another.

    They are those of the whole batch but for rounding and dropout; the memory is that of a piece.

    Returns:
        The loss times `part`, [].
    """
    count, device = min(settings.accumulate, len(batch["index"])), device_of(model)
    values: list[Tensor] = []
    rooted = parallel.rooted_parameters(model) if count > 1 else []
    sums: dict[nn.Parameter, Tensor] = {}
    for piece in range(count):
        rows = {name: tensor.tensor_split(count)[piece] for name, tensor in batch.items()}
        share = len(rows["index"]) / len(batch["index"])
        with autocast(device, settings.precision):
            value = loss(rows) * (part * share)
        value.backward()
        values.append(value.detach())
        for parameter in rooted:
            if parameter.grad is not None:
                gradient, parameter.grad = parameter.grad * math.sqrt(share), None
                sums[parameter] = sums[parameter] + gradient if parameter in sums else gradient
    for parameter, gradient in sums.items():
        parameter.grad = gradient
    return values[0] if count == 1 else torch.stack(values).sum()


def predict(
    model: Any, columns: Columns, batch_size: int = 128, precision: str = "fp32"
) -> np.ndarray:
    """Logits [n, K] of every example, in dataset order, in float32 and without dropout.

    The processes of a data-parallel group share the batches, and all get all logits. With
    `precision` bf16 matrix products are in bfloat16, as in training: two to three times as fast.
    """
    batches, size = eval_batches(columns.lengths, batch_size), parallel.size()
    shares = [batches[rank::size] for rank in range(size)]
    mine = torch.from_numpy(predict_batches(model, columns, shares[parallel.rank()], precision))
    return in_order(parallel.gather(mine).numpy(), [index for share in shares for index in share])


@torch.no_grad()
def predict_batches(
    model: Any, columns: Columns, batches: list[np.ndarray], precision: str = "fp32"
) -> np.ndarray:
    """Logits [., K] of the batches' examples, in the batches' order; see `predict`."""
    model.eval()
    device = device_of(model)
    logits = [np.zeros((0, model.config.num_labels), dtype=np.float32)]
    for index in batches:
        batch = to_device(inputs_of(collate(columns, index)), device)
        with autocast(device, precision):
            logits.append(model(**batch).logits.float().cpu().numpy())
    return np.concatenate(logits)


def in_order(logits: np.ndarray, batches: list[np.ndarray]) -> np.ndarray:
    """From the order of batches that hold every example once to that of the dataset."""
    ordered = np.empty_like(logits)
    ordered[np.concatenate(batches)] = logits
    return ordered


def make_optimizers(model: nn.Module, settings: FitSettings) -> list[torch.optim.Optimizer]:
    """AdamW for the dense parameters, SparseAdam for the word embeddings.

    The latent weights of split and binary layers learn at `latent_rate` times the rate of the rest:
    what counts of them is the sign, and a rate at which biases learn leaves most signs as they are.

    Of a 30,000-row table a batch touches some hundred rows: the sparse optimizer moves only these
    (lazy Adam), which saves a third of a step. Biases, LayerNorm and quantizer parameters do not
    decay, the latter have their own learning rate.
    """
    quantizer_parameters = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, LEARNED)
        for parameter in module.parameters()
    }
    latent = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, SplitLinear | BinaryLinear)
        for name, parameter in module.named_parameters(recurse=False)
        if name.startswith("weight")
    }
    latents: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    quantizers: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if "word_embeddings" in name:
            tables.append(parameter)
        elif id(parameter) in quantizer_parameters:
            quantizers.append(parameter)
        elif id(parameter) in latent and settings.latent_rate != 1:
            latents.append(parameter)
        elif parameter.dim() > 1:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain},
        {"params": quantizers, "lr": settings.quantizer_learning_rate},
    ]
    if latents:
        rate = settings.learning_rate * settings.latent_rate
        groups.append({"params": latents, "lr": rate, "weight_decay": settings.weight_decay})
    dense = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    return [dense, torch.optim.SparseAdam(tables, lr=settings.learning_rate)]


def linear_schedule(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate: up to 1 over the first `warmup` of the steps, then down to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor


def clip_gradients_(model: nn.Module, max_norm: float) -> None:
    """Scale all gradients, dense and sparse, so that their common norm is at most `max_norm`."""
    values = []
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:  # rows that occur twice must be added before they are measured
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    scale = (max_norm / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)


def _by_first_word(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"a.x": 1, "a.y": 2}` as `{"a": {"x": 1, "y": 2}}`."""
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        first, _, rest = key.partition(".")
        nested.setdefault(first, {})[rest] = value
    return nested
