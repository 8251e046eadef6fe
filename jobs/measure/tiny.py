"""A run that takes seconds: for measuring what surrounds the training, not the training."""

from __future__ import annotations

import random
from pathlib import Path

NOUNS, GOOD, BAD = ("film", "plot", "cast", "score"), ("good", "fine"), ("bad", "dull")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "is", *NOUNS, *GOOD, *BAD)
LENGTH = 16  # tokens
NOISE = 0.2  # share of wrong labels, so that boosting has errors to work with


def tiny_run(directory: Path, examples: int) -> list[str]:
    """Make a random encoder and sentences of four words with a label, all seeded.

    Args:
        directory: new directory for them.
        examples: to train on; dev has half as many.

    Returns:
        Overrides that make a run of them.
    """
    _write_reviews(directory, examples)
    _write_encoder(directory)
    stages = ("teacher", "half", "ternary", "binary", "member")
    return [
        "task=custom",
        f"model={directory}",
        f"data.path={directory}",
        "data.text_columns=[text]",
        "data.label_column=label",
        f"data.max_length={LENGTH}",
        *(f"{stage}.batch_size=8" for stage in stages),
        *(f"{stage}.learning_rate=1e-3" for stage in stages),
        "teacher.epochs=4",
        "ensemble.errors=train",
        "resources.stage.cpu=1",
        "resources.member.cpu=1",
        "resources.member.memory=1e8",
    ]


def _write_reviews(directory: Path, examples: int) -> None:
    directory.mkdir(parents=True)
    rng = random.Random(0)
    for name, count in (("train", examples), ("dev", examples // 2)):
        lines = ["text\tlabel"]
        for _ in range(count):
            positive, wrong = rng.random() < 0.5, rng.random() < NOISE
            text = f"the {rng.choice(NOUNS)} is {rng.choice(GOOD if positive else BAD)}"
            lines.append(f"{text}\t{int(positive != wrong)}")
        (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n")


def _write_encoder(directory: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, BertTokenizer

    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = BertModel(config).state_dict()
    config.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    BertTokenizer(vocab=vocabulary, model_max_length=LENGTH).save_pretrained(directory)
