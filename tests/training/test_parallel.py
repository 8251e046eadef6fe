"""Several processes against one; they are forked, and join with gloo."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bebert_ray.data.batches import collate
from bebert_ray.data.columns import Columns
from bebert_ray.errors import RunError, UserError
from bebert_ray.nn.bert import copy_of
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
from bebert_ray.nn.quantizers import calibrate_
from bebert_ray.nn.split import ternarize_
from bebert_ray.storage import Location
from bebert_ray.training import fit as fit_module
from bebert_ray.training import parallel
from bebert_ray.training.checkpoints import Checkpoints, State
from bebert_ray.training.fit import Fit
from bebert_ray.training.losses import Loss, hidden_loss, inputs_of, label_loss
from bebert_ray.training.predict import predict
from bebert_ray.training.settings import FitSettings

Examples = Callable[..., Columns]
MakeBag = Callable[..., Any]
Group = Callable[..., list[Any]]

QUICK = {"epochs": 3, "learning_rate": 0.01, "batch_size": 8, "precision": "fp32"}
TIMEOUT = 120  # seconds, of a machine that other tests use too


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """Runs a function in so many processes; gives what each returned, or raised if it may fail."""
    fork = multiprocessing.get_context("fork")  # so the function may be a closure
    meetings: Iterator[int] = iter(range(100))

    def work(function: Callable[[], Any], meeting: Path, rank: int, size: int, answer: Any) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=size)
        try:
            outcome = function()
        except Exception as error:
            outcome = error
        answer.send_bytes(pickle.dumps(outcome))
        answer.close()
        os._exit(0)  # pytest is not to end twice

    def run(size: int, function: Callable[[], Any], may_fail: bool = False) -> list[Any]:
        meeting = tmp_path / f"meeting-{next(meetings)}"
        pipes = [fork.Pipe(duplex=False) for _ in range(size)]
        processes = [
            fork.Process(target=work, args=(function, meeting, rank, size, pipe[1]))
            for rank, pipe in enumerate(pipes)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        try:
            outcomes = [_receive(receiver) for receiver, _ in pipes]
        finally:
            for process in processes:
                process.kill()
                process.join()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not may_fail:
                raise outcome
        return outcomes

    return run


def _receive(receiver: Any) -> Any:
    assert receiver.poll(TIMEOUT), "a process does not answer"
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return None  # it died


@pytest.fixture
def encoder(tiny_checkpoint: Path) -> Callable[..., Any]:
    """Makes equal models of the tiny checkpoint."""

    def make(dropout: float = 0.0) -> Any:
        torch.manual_seed(0)
        return load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, dropout)

    return make


@pytest.fixture
def sentences(examples: Examples) -> Callable[[int], Columns]:
    """Examples in the vocabulary of the tiny checkpoint."""

    def make(n: int) -> Columns:
        columns = examples(n)
        ids = columns.input_ids % 60
        return Columns(ids, columns.token_type_ids, columns.offsets, columns.labels)

    return make


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# --- gradients ----------------------------------------------------------------------------------


def gradients(model: nn.Module, loss: Loss, columns: Columns, rows: list[int]) -> dict[str, Tensor]:
    """Gradients of the batches of so many rows, added up; and the sum of their losses."""
    first, value = 0, torch.zeros(())
    for count in rows:
        batch, part = parallel.share(collate(columns, np.arange(first, first + count)))
        mean = loss(batch) * part
        mean.backward()
        value, first = value + mean.detach(), first + count
    # LSQ's correction is that of the last batch: with several, they are alike.
    parallel.sum_gradients_(model, part)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert "bert.embeddings.word_embeddings.weight" in found
    assert found["bert.embeddings.word_embeddings.weight"].is_sparse
    return {name: grad.to_dense() for name, grad in found.items()} | {"": parallel.total(value)}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("rows", [[8], [31], [1], [2], [8, 31, 1]], ids=str)
def test_gradients_are_those_of_the_whole_batch(
    group: Group,
    encoder: Callable[..., Any],
    sentences: Callable[[int], Columns],
    size: int,
    rows: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dense and sparse ones, of shares that are not the same, or empty, in one bucket or more."""
    monkeypatch.setattr(parallel, "BUCKET", 2000)
    columns, weight = sentences(40), torch.rand(40) * 2

    def compute() -> dict[str, Tensor]:
        model = encoder()
        return gradients(model, label_loss(model, weight), columns, rows)

    alone = compute()
    for each in group(size, compute):
        assert each.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(each[name], expected, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [7, 1])
def test_gradients_of_a_quantized_student_too(
    group: Group,
    encoder: Callable[..., Any],
    sentences: Callable[[int], Columns],
    bits: int,
    rows: int,
) -> None:
    """Of hidden states and attention scores, with padding, and for clips and LSQ's step sizes."""
    columns = sentences(8)
    teacher = encoder().double()
    student = copy_of(encoder())
    ternarize_(student, bits)
    calibrate_(student.eval(), inputs_of(collate(columns, np.arange(8))))
    student.double()  # rounding must not put a value into another level

    def compute() -> dict[str, Tensor]:
        return gradients(student, hidden_loss(student, teacher, True), columns, [rows])

    expected, *_ = group(1, compute)
    steps = [name for name in expected if name.endswith(".step" if bits == 4 else ".clip")]
    assert sum(expected[name].abs().max() > 0 for name in steps) > (10 if bits == 4 else 3)
    for each in group(2, compute):
        assert each.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(each[name], expected[name], rtol=1e-5, atol=1e-9, msg=name)


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["plain", "drawn", "weighted"])
def test_the_loss_curve_of_the_teacher_is_that_of_one_process(
    group: Group, encoder: Callable[..., Any], sentences: Callable[[int], Columns], mode: str
) -> None:
    train, dev = sentences(33), sentences(12)  # the last batch of an epoch has one row
    draw = np.random.default_rng(0).dirichlet(np.ones(33))
    settings = FitSettings(**QUICK | {"learning_rate": 1e-3})

    def teach() -> tuple[list[float], list[float], dict[str, Tensor]]:
        model, losses, scores = encoder(), list[float](), list[float]()
        step = fit_module.train_step

        def noted(*arguments: Any) -> Tensor:
            losses.append(step(*arguments).item())
            return torch.tensor(losses[-1])

        def score() -> float:
            scores.append(float(predict(model, dev, 4).std()))
            return scores[-1]

        loss_weight = torch.from_numpy(draw * 33).float() if mode == "weighted" else None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit_module, "train_step", noted)
            fit = Fit(model, train, settings, score=score)
            fit.advance(label_loss(model, loss_weight), 3, draw if mode == "drawn" else None)
        fit.finish()
        return losses, scores, weights(model)

    [[losses, scores, trained]], together = group(1, teach), group(2, teach)
    assert len(losses) == 15 and min(losses) < 0.9 * losses[0]
    for their_losses, their_scores, _ in together:
        assert their_losses == pytest.approx(losses, abs=1e-4)
        assert their_scores == pytest.approx(scores, abs=1e-4)
    assert same_bits(together[0][2], together[1][2])
    for name, expected in trained.items():
        torch.testing.assert_close(together[0][2][name], expected, rtol=0, atol=1e-3, msg=name)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_predictions_are_to_the_bit_those_of_one_process(
    group: Group, encoder: Callable[..., Any], sentences: Callable[[int], Columns], n: int
) -> None:
    model, columns = encoder(), sentences(n)
    expected = predict(model, columns, 4)
    assert expected.shape == (n, 2)
    for size in (2, 3):
        for logits in group(size, lambda: predict(model, columns, 4)):
            np.testing.assert_array_equal(logits, expected)


def trained(
    place: Path, bag: MakeBag, columns: Columns, number: int | None = None
) -> tuple[int, dict[str, Tensor]]:
    """Train with dropout, keep a checkpoint of every second step, or go on from one of them."""
    model = bag(dropout=0.4)
    settings = FitSettings(**QUICK, checkpoint_every=2)
    fit = Fit(model, columns, settings, score=lambda: float(predict(model, columns).sum()))
    if number is not None:
        torch.manual_seed(parallel.rank() + 99)  # another process has another state
        fit.restore(Checkpoints(Location.of(place / str(number)), {}).load())
    kept = 0

    def keep(state: State) -> None:
        nonlocal kept
        if number is None:
            checkpoints = Checkpoints(Location.of(place / str(kept)), {})
            assert checkpoints.found is None
            parallel.once(lambda: checkpoints.save(state))
        kept += 1

    fit.advance(label_loss(model), 3, keep=keep)
    fit.finish()
    return kept, weights(model)


def test_a_group_that_is_started_again_comes_to_the_same_bits(
    group: Group, bag: MakeBag, examples: Examples, tmp_path: Path
) -> None:
    columns = examples(33)
    (kept, undisturbed), (_, other) = group(2, lambda: trained(tmp_path, bag, columns))
    assert same_bits(undisturbed, other)
    rows = Checkpoints(Location.of(tmp_path / "3"), {}).load().tensors["rng.cpu"]
    assert len(rows) == 2 and not torch.equal(*rows), "each has a dropout of its own"
    for number in range(kept):
        outcomes = group(2, lambda number=number: trained(tmp_path, bag, columns, number))
        assert [left for left, _ in outcomes] == [kept - number - 1] * 2
        assert all(same_bits(after, undisturbed) for _, after in outcomes), number


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_a_checkpoint_serves_any_number_of_processes(
    group: Group, bag: MakeBag, examples: Examples, tmp_path: Path, before: int, after: int
) -> None:
    columns = examples(33)
    (kept, _), *_ = group(before, lambda: trained(tmp_path, bag, columns))
    outcomes = group(after, lambda: trained(tmp_path, bag, columns, 2))
    assert [left for left, _ in outcomes] == [kept - 3] * after
    assert same_bits(outcomes[0][1], outcomes[-1][1])


def test_the_first_process_has_the_dropout_of_one_alone(
    group: Group, bag: MakeBag, examples: Examples
) -> None:
    def start() -> Tensor:
        Fit(bag(), examples(8), FitSettings(**QUICK, seed=7))
        return torch.rand(3)

    [alone], (first, second) = group(1, start), group(2, start)
    assert torch.equal(first, alone)
    assert not torch.equal(second, alone)


def test_all_start_with_the_weights_of_the_first(
    group: Group, bag: MakeBag, examples: Examples
) -> None:
    def start() -> dict[str, Tensor]:
        model = bag(seed=parallel.rank())
        model.register_buffer("level", torch.tensor(parallel.rank()))
        Fit(model, examples(8), FitSettings(**QUICK))
        return weights(model)

    first, second = group(2, start)
    assert same_bits(first, second)
    assert first["level"] == 0 and torch.equal(first["classifier.bias"], bag(0).classifier.bias)


# --- one for all --------------------------------------------------------------------------------


def test_what_is_done_once_all_know_of(group: Group, tmp_path: Path) -> None:
    def function() -> str:
        with (tmp_path / "trace").open("a") as file:
            file.write("done by one\n")
        return "result"

    assert group(3, lambda: parallel.once(function)) == ["result"] * 3
    assert (tmp_path / "trace").read_text() == "done by one\n"


@pytest.mark.parametrize("error", [UserError("no room"), RunError("nan"), OSError(28, "full")])
def test_what_goes_wrong_once_goes_wrong_for_all(group: Group, error: Exception) -> None:
    def fail() -> None:
        raise error

    for outcome in group(2, lambda: parallel.once(fail), may_fail=True):
        assert type(outcome) is type(error) and outcome.args == error.args


def test_all_go_on_from_the_checkpoint_that_the_first_has_found(
    group: Group, tmp_path: Path
) -> None:
    place, inputs = Location.of(tmp_path / "checkpoints"), {"step": "teacher"}
    Checkpoints(place, inputs).save(State({"phase": 1}, {"x": torch.ones(2)}))

    def find() -> tuple[int, Tensor]:
        checkpoints = Checkpoints(place, inputs)
        if parallel.rank() > 0:  # it sees another directory than the first, for a while
            checkpoints._newest = lambda: None  # type: ignore[method-assign]
        assert checkpoints.found is not None
        return checkpoints.found.facts["phase"], checkpoints.load().tensors["x"]

    for phase, x in group(2, find):
        assert phase == 1 and torch.equal(x, torch.ones(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda: parallel.total(torch.ones(1)),
        lambda: parallel.gather(torch.ones(1)),
        lambda: parallel.once(lambda: None),
        lambda: parallel.align_(nn.Linear(2, 2)),
    ],
    ids=["total", "gather", "once", "align_"],
)
def test_a_process_that_is_gone_is_told_of_by_the_others(
    group: Group, function: Callable[[], Any]
) -> None:
    def work() -> Any:
        dist.barrier()
        if parallel.rank() == 0:
            os._exit(1)
        return function()

    dead, outcome = group(2, work, may_fail=True)
    assert dead is None
    assert isinstance(outcome, parallel.PeerLost)
    assert "process 1 of 2 cannot reach the others" in str(outcome)


def test_a_process_on_its_own_notices_nothing(encoder: Callable[..., Any]) -> None:
    assert (parallel.rank(), parallel.size()) == (0, 1)
    batch, one, model = {"index": torch.arange(3)}, torch.ones(1), nn.Linear(2, 2)
    mine, part = parallel.share(batch)
    assert torch.equal(mine["index"], batch["index"]) and part == 1
    assert parallel.total(one) is parallel.gather(one) is one
    model(torch.ones(1, 2)).sum().backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    parallel.sum_gradients_(model, 0.5)
    assert all(
        p.grad is not None and torch.equal(p.grad, grad)
        for p, grad in zip(model.parameters(), before, strict=True)
    )
