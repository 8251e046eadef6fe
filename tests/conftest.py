"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports torch or transformers: one thread, so that timings and sums do not depend
# on the machine, and no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models of tests are too small to be worth a compiler; tests/nn/test_compiled.py has one.
os.environ["CXX"] = "no-compiler"
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import numpy as np
import pyarrow.fs
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BertConfig, BertForSequenceClassification

    from bebert_ray.pipeline.results import Results
    from bebert_ray.storage import Location

# No deadline: the machine may be busy. In CI the same examples every time.
settings.register_profile("bebert_ray", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("bebert_ray")

ROOT = Path(__file__).resolve().parents[1]
_EXIT_STATUS = pytest.StashKey[int]()


# The files that take longest, of which each is run by one of two processes: they go first, so that
# both end at about the same time.
LONG = (
    *("jobs/test_ensemble.py", "pipeline/test_driver.py", "cluster/test_pool.py"),
    *("jobs/test_sweep.py", "training/test_member.py", "scoring/test_run.py"),
    *("jobs/test_predict.py", "jobs/test_losses.py", "jobs/test_benchmark.py", "test_api.py"),
    *("cluster/test_nodes.py", "cluster/test_data_parallel.py", "examples/test_notebooks.py"),
    *("packed/test_model.py", "training/test_stages.py", "jobs/test_chaos.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files that take longest to the front; the tests of a file keep their order."""

    def place(item: pytest.Item) -> int:
        name = item.path.as_posix()
        return next((i for i, end in enumerate(LONG) if name.endswith(end)), len(LONG))

    items.sort(key=place)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the tests ended."""
    session.config.stash[_EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once when all is said.

    Native threads of Ray and Arrow outlive tests, and can crash while the interpreter ends: a run
    that had passed then has the exit code of a segmentation fault.
    """
    if _EXIT_STATUS in config.stash and not hasattr(config, "workerinput"):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_EXIT_STATUS])


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def _path_or_skip(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.exists():
        pytest.skip(f"{path} is absent (set {variable})")
    return path


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Real GLUE in the official TSV layout."""
    return _path_or_skip("BEBERT_GLUE", ROOT.parent / "shared" / "glue")


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Inputs and outputs of the published quantizers, by key."""
    path = _path_or_skip("BEBERT_GOLDEN", ROOT.parent / "shared" / "golden" / "quantizers.npz")
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Host and port of an S3 server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    pyarrow.fs.finalize_s3()  # here, and not while the interpreter ends: that can crash
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server, which has a bucket `runs`, empty."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}", region_name="us-east-1")
    client.create_bucket(Bucket="runs")
    yield client
    for entry in client.list_objects_v2(Bucket="runs").get("Contents", []):
        client.delete_object(Bucket="runs", Key=entry["Key"])


@pytest.fixture
def bucket(s3: Any, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A directory in the bucket, not there yet."""
    from bebert_ray.storage import Location

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = f"endpoint_override={s3_server}&scheme=http&region=us-east-1"
    return Location.parse(f"s3://runs/mrpc?{options}")


# A few words, and every letter with and without "##": no plain text becomes [UNK].
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_WORDS = "the a is was not very but and good bad film food movie plot story this that it of to in"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *_WORDS.split(),
    *(letter for letter in _LETTERS if letter != "a"),
    *(f"##{letter}" for letter in _LETTERS),
    *".,!?'-",
]


def _tiny_config() -> BertConfig:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
    )


@pytest.fixture
def tiny_config() -> BertConfig:
    """A BERT of 2 layers, 4 heads, hidden size 32 and 64 FFN neurons, without dropout."""
    return _tiny_config()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a BertModel of `tiny_config` with seeded random weights, and a tokenizer."""
    import torch
    from transformers import BertModel, BertTokenizer

    directory = tmp_path_factory.mktemp("tiny_checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(_tiny_config()).save_pretrained(directory)
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files train.tsv and dev.tsv; a fifth of the labels is wrong, some scores are far."""
    directory = tmp_path_factory.mktemp("reviews")
    rng = random.Random(0)
    for name, count in (("train", 96), ("dev", 40)):
        lines = ["text\tlabel\tscore"]
        for i in range(count):
            good, wrong = rng.random() < 0.5, rng.random() < 0.2
            text = f"the {rng.choice(['film', 'movie', 'plot'])} is {'good' if good else 'bad'}"
            label = "pos" if good != wrong else "neg"
            score = (0.6 if good else 0.2) + rng.random() / 5 + (i % 16 == 0)
            lines.append(f"{text}\t{label}\t{score:.2f}")
        (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture(scope="session")
def tiny_run(tiny_checkpoint: Path, reviews: Path) -> list[str]:
    """Overrides of a run of two members on `reviews` that takes seconds, and learns."""
    stages = ("teacher", "half", "ternary", "binary", "member")
    return [
        "task=custom",
        f"data.path={reviews}",
        "data.text_columns=[text]",
        "data.label_column=label",
        "data.max_length=32",
        f"model={tiny_checkpoint}",
        *(f"{stage}.batch_size=8" for stage in stages),
        *(f"{stage}.learning_rate=1e-3" for stage in stages),
        "teacher.epochs=12",
        "half.epochs=4",
        "ternary.joint=false",
        "ternary.hidden_epochs=1",
        "ternary.epochs=2",
        "binary.hidden_epochs=1",
        "binary.epochs=2",
        "member.epochs=1",
        "training.dropout=0",
        "member.joint=false",
        "ensemble.members=2",
        "ensemble.strategy=A",
        "ensemble.errors=train",
        "export.remainder=none",
        "resources.num_cpus=1",
        "resources.member.memory=5e8",
    ]


@pytest.fixture(scope="session")
def finish_run(tiny_run: list[str]) -> Callable[..., Path]:
    """Makes a finished run of `tiny_run` and overrides at a place, in this process; returns it."""

    def finish(output: Path, *overrides: str) -> Path:
        from bebert_ray.cluster.worker import Worker
        from bebert_ray.config import load_config
        from bebert_ray.pipeline.driver import Run, results
        from bebert_ray.pipeline.prepare import open_run, prepare
        from bebert_ray.pipeline.results import to_json
        from bebert_ray.storage import write_atomic

        prepared = prepare(load_config(None, [*tiny_run, f"output={output}", *overrides]))
        splits = open_run(prepared)
        run = Run(prepared, splits)
        worker = Worker(prepared.config, prepared.task, prepared.directory, 1, lambda _: None)
        arrays = {name: columns.to_arrays() for name, columns in splits.items()}
        steps = run.start()
        while steps:
            step = steps.pop(0)
            steps += run.advance(step, *worker.run(step, arrays))
        write_atomic(prepared.layout.results, to_json(results(run).everything()))
        return output

    return finish


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three random sentences of 8, 3 and 6 tokens."""
    import torch

    mask = (torch.arange(8) < torch.tensor([[8], [3], [6]])).long()
    ids = torch.randint(5, 90, mask.shape) * mask
    kinds = (torch.arange(8) > 4).long() * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}


@pytest.fixture
def member(
    tiny_checkpoint: Path, batch: dict[str, Tensor]
) -> Callable[..., BertForSequenceClassification]:
    """Makes a tiny member, as if it were trained: member(seed=0, bits=8, labels=2).

    With 8 and 4 bits of activations its weights are split, with fewer they are not, and other
    options are those of `binarize_`.
    """
    import torch

    from bebert_ray.nn.binarize import binarize_
    from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
    from bebert_ray.nn.narrow import narrow_
    from bebert_ray.nn.quantizers import calibrate_
    from bebert_ray.nn.split import split_, ternarize_

    def make(
        seed: int = 0, bits: int = 8, labels: int = 2, **options: bool
    ) -> BertForSequenceClassification:
        torch.manual_seed(seed)
        model = load_encoder(find_checkpoint(str(tiny_checkpoint)), labels, dropout=0.0).eval()
        if bits > 2:
            narrow_(model, 0.5)
            ternarize_(model, bits)
        else:
            binarize_(model, bits, **options)
        calibrate_(model, batch)
        if bits > 2:
            split_(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        return model

    return make


def _mnli_scores(value: float) -> dict[str, dict[str, float]]:
    splits = ("train", "selection", "dev_matched", "dev_mismatched")
    return {
        split: {metric: value + i / 100 + j / 1000 for j, metric in enumerate(("accuracy", "f1"))}
        for i, split in enumerate(splits)
    }


@pytest.fixture
def mnli_results() -> Results:
    """What a run of MNLI with two members may end with: its scores and sizes are made up."""
    from bebert_ray.pipeline.results import Model, Results

    stages = ("teacher", "half", "ternary")
    return Results(
        run="/runs/mnli",
        task="mnli",
        metrics=("accuracy", "f1"),
        classes=("entailment", "neutral", "contradiction"),
        dev=("dev_matched", "dev_mismatched"),
        selection="holdout",
        seed=42,
        stages={
            name: Model(name, _mnli_scores(0.9 - i / 10), int(8e8 / 4**i), 10.04 * (i + 1))
            for i, name in enumerate(stages)
        },
        members=[
            Model("member 000", _mnli_scores(0.5), 8_000_000, 7.25, alpha=1.5, error=0.2),
            Model("member 001", _mnli_scores(0.4), 8_000_000, 8.0, alpha=0.5, error=0.4),
        ],
        predictions=[(0, 0), (1, 2)],
        staged=[_mnli_scores(0.5), _mnli_scores(0.55)],
        note="",
        packed=None,
        config={"task": "mnli"},
        versions={"torch": "2"},
    )
