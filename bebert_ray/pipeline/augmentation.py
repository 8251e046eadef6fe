"""The augmented copies of a run: what they depend on, their parts, and the artifact of all of them.

No Ray here: `cluster.augment` has the parts made.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import torch

from bebert_ray.augment.copies import Copy, Replacer, make_copies
from bebert_ray.augment.masked import load_masked
from bebert_ray.augment.vectors import Vectors, make_vectors, read_glove
from bebert_ray.augment.words import Rules, key
from bebert_ray.data.columns import Columns, tokenize
from bebert_ray.data.copies import Copies
from bebert_ray.data.corpus import Split
from bebert_ray.errors import UserError
from bebert_ray.nn.checkpoint import Checkpoint, load_encoder, load_tokenizer
from bebert_ray.pipeline.layout import AUGMENTED, AUGMENTED_COLUMNS, ROWS
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.storage import (
    Artifact,
    Location,
    Miss,
    commit,
    fetch,
    find,
    fingerprint,
    names,
    read,
    write_atomic,
)

PART = 256  # examples of a part
_TEXTS = ("text", "text_pair")  # the columns of the Parquet files, beside origin and copy


@dataclass(frozen=True)
class Job:
    """All that the making of any part needs, as plain data.

    Attributes:
        examples: the texts of each training example, by row.
        replacer: knows the candidates of words.
        forbidden: what no copy may be the same as: held-out and dev examples.
        tokenizer: the encoder's.
        max_length: most tokens to keep of a copy.
        copies: how many of each example.
        probability: that a word is replaced.
        seed: of the random choices.
        place: directory of the parts.
    """

    examples: list[tuple[str, ...]]
    replacer: Replacer
    forbidden: frozenset[str]
    tokenizer: Any
    max_length: int
    copies: int
    probability: float
    seed: int
    place: Location

    @property
    def parts(self) -> range:
        """The numbers of all parts."""
        return range(-(-len(self.examples) // PART))

    def missing(self) -> list[int]:
        """The parts that are not there yet."""
        there = names(self.place)
        return [part for part in self.parts if not {f"{_name(part)}.parquet", _made(part)} <= there]


def find_augmented(prepared: Prepared) -> Artifact | Miss | None:
    """The augmented copies of a run, if they are there; None if it has none."""
    inputs = prepared.augmentation
    return None if inputs is None else find(prepared.layout.augmented, inputs)


def load_copies(prepared: Prepared) -> Copies | None:
    """The tokenised copies of a run; None if `data.augment.copies` is 0.

    Raises:
        RunError: they are absent or damaged.
    """
    if prepared.augmentation is None:
        return None
    file = fetch(prepared.layout.augmented).path / AUGMENTED_COLUMNS
    return Copies.from_arrays(safetensors.numpy.load_file(file))


def load_texts(prepared: Prepared) -> Iterator[Copy]:
    """The copies of a run as text, by origin and number.

    Raises:
        RunError: they are absent or damaged.
    """
    for path in sorted(fetch(prepared.layout.augmented).path.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            yield Copy(row.pop("origin"), row.pop("copy"), tuple(row.values()))


def open_job(prepared: Prepared) -> Job:
    """Load what the copies are made with.

    Raises:
        UserError: the masked language model or the word vectors cannot be used, or have too few
            words.
    """
    config, corpus = prepared.config, prepared.corpus
    rows = _rows(prepared)
    train = corpus.train.take(rows["train"])
    kept_out = [corpus.train.take(rows["selection"]), *corpus.dev.values()]
    augment = config.data.augment
    inputs = prepared.augmentation
    assert inputs is not None
    replacer = open_replacer(prepared)
    return Job(
        examples=_examples(train),
        replacer=replacer,
        forbidden=frozenset(key(texts) for split in kept_out for texts in _examples(split)),
        tokenizer=load_tokenizer(prepared.checkpoint),
        max_length=config.data.max_length,
        copies=augment.copies,
        probability=augment.probability,
        seed=config.seed,
        place=prepared.layout.checkpoints / f"{AUGMENTED}-{fingerprint(inputs)[:16]}",
    )


def open_replacer(prepared: Prepared) -> Replacer:
    """Load what knows the candidates of words, as `data.augment` asks for.

    Raises:
        UserError: see `open_job`.
    """
    augment, masked = prepared.config.data.augment, prepared.masked
    numbers = not augment.keep_numbers
    vectors = None
    if augment.vectors is not None:
        vectors = read_glove(Path(augment.vectors), numbers)
    elif masked is None:
        vectors = encoder_vectors(prepared.checkpoint, numbers)
    replacer = Replacer(
        count=augment.candidates,
        rules=Rules(augment.keep_numbers, augment.keep_names, augment.keep_stop_words),
        vectors=vectors,
        masked=None if masked is None else load_masked(masked.path),
    )
    replacer.check()
    return replacer


def encoder_vectors(checkpoint: Checkpoint, numbers: bool = False) -> Vectors:
    """The word embeddings of an encoder, of the words that are one token to it.

    Args:
        checkpoint: the encoder.
        numbers: whether words with digits are among them.
    """
    tokenizer: Any = load_tokenizer(checkpoint)
    with torch.random.fork_rng(devices=[]):  # a new classifier is drawn, and thrown away
        model = load_encoder(checkpoint, 2, 0.0)
    matrix = model.bert.embeddings.word_embeddings.weight.detach().numpy()
    words = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(matrix))))
    return make_vectors(words, matrix, numbers)


def make_part(job: Job, part: int, device: torch.device | None = None) -> None:
    """Make the copies of the examples of a part, and leave them as text and as tokens.

    Args:
        job: see `Job`.
        part: its number.
        device: of the masked language model; None: the CPU.
    """
    rows = range(part * PART, min((part + 1) * PART, len(job.examples)))
    copies = make_copies(
        job.replacer,
        [job.examples[row] for row in rows],
        rows,
        copies=job.copies,
        probability=job.probability,
        seed=job.seed,
        forbidden=job.forbidden,
        device=device,
    )
    origin = np.array([copy.origin for copy in copies], np.int64)
    texts = tuple([copy.texts[side] for copy in copies] for side in range(len(job.examples[0])))
    table = pa.table(
        {
            "origin": pa.array(origin, pa.int64()),
            "copy": pa.array([copy.number for copy in copies], pa.int32()),
            **{
                name: pa.array(column, pa.string())
                for name, column in zip(_TEXTS, texts, strict=False)
            },
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    write_atomic(job.place / f"{_name(part)}.parquet", sink.getvalue())
    # The labels of the copies are those of their examples, which are put in at the end.
    columns = tokenize(Split(texts, np.zeros(len(copies), np.int8)), job.tokenizer, job.max_length)
    arrays = Copies(columns, origin).to_arrays()
    write_atomic(job.place / _made(part), safetensors.numpy.save(arrays))


def leave_augmented(prepared: Prepared, job: Job, seconds: float) -> Artifact:
    """Leave all parts, and the tokenised copies of all of them, as an artifact of the run.

    Args:
        prepared: the run.
        job: whose parts are all there.
        seconds: how long it took.

    Returns:
        The artifact: `part-00000.parquet` and so on, with the columns `origin` (row of the training
        split), `copy`, `text` and `text_pair`; and `copies.safetensors`, see `load_copies`.

    Raises:
        UserError: nothing could be replaced in any example.
    """
    made = [safetensors.numpy.load(read(job.place / _made(part))) for part in job.parts]
    origin = np.concatenate([arrays["origin"] for arrays in made])
    count, examples = len(origin), len(job.examples)
    without = examples - len(np.unique(origin))
    if not count:
        raise UserError(
            f"data.augment: there is no word to replace in any of the {examples} training examples,"
            " and all were left as they are; set data.augment.copies=0, or change keep_numbers, "
            "keep_names, keep_stop_words, model or vectors"
        )
    labels = prepared.corpus.train.labels[_rows(prepared)["train"]]
    lengths = np.concatenate([np.diff(arrays["offsets"]) for arrays in made])
    columns = Columns(
        np.concatenate([arrays["input_ids"] for arrays in made]),
        np.concatenate([arrays["token_type_ids"] for arrays in made]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels[origin],
    )

    def write(draft: Path) -> Mapping[str, Any]:
        for part in job.parts:
            name = f"{_name(part)}.parquet"
            (draft / name).write_bytes(read(job.place / name))
        arrays = Copies(columns, origin).to_arrays()
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            draft / AUGMENTED_COLUMNS,
        )
        return {"copies": count, "unchanged": without, "seconds": seconds}

    assert prepared.augmentation is not None
    return commit(prepared.layout.augmented, AUGMENTED, prepared.augmentation, write)


def _examples(split: Split) -> list[tuple[str, ...]]:
    return list(zip(*split.texts, strict=True))


def _rows(prepared: Prepared) -> dict[str, np.ndarray]:
    """The rows of the corpus that each split of the run holds."""
    rows = json.loads((fetch(prepared.layout.data).path / ROWS).read_text())
    return {name: np.array(chosen, np.int64) for name, chosen in rows.items()}


def _name(part: int) -> str:
    return f"part-{part:05d}"


def _made(part: int) -> str:
    return f"{_name(part)}.safetensors"
