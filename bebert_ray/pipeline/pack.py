"""From the members of a finished run to a packed model: written, loaded, scored, described."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bebert_ray.boosting.vote import combine
from bebert_ray.data.metrics import evaluate
from bebert_ray.nn.bert import load_model, load_tokenizer
from bebert_ray.packed.manifest import CARD
from bebert_ray.packed.model import BebertForSequenceClassification, packed_model
from bebert_ray.packed.summary import stored_bytes
from bebert_ray.pipeline.model_card import model_card
from bebert_ray.storage import Artifact, Location, commit, fetch
from bebert_ray.training.encoder import fetch_encoder
from bebert_ray.training.fit import predict
from bebert_ray.training.work import Logits, Work, load_logits, versions


def leave_packed(work: Work, path: Location, stage: str, inputs: dict[str, Any]) -> Artifact:
    """Leave the packed ensemble of a run at `path`.

    What is in the file is loaded and scored before it counts as made: the figures are its own.

    Args:
        work: see `Work`.
        path: directory of the artifact.
        stage: name of the step.
        inputs: all that it depends on, see `ensemble.steps.model_step`: the names of the `members`
            in their directory, `alphas`, `remainder`, `labels`, `text_columns`, `max_length` and
            the `config` to show, among others.

    Returns:
        The artifact: a packed model with tokenizer, manifest and model card. Its facts hold
        `scores` (of selection and dev), `logit_difference` (the largest between a member's logits
        and those it had when it was trained), `bytes` (see
        `summary.stored_bytes`), `seconds` and `versions`.
    """
    members = [fetch(work.directory / "members" / name) for name in inputs["members"]]
    facts: dict[str, Any] = {}

    def write(draft: Path) -> Mapping[str, Any]:
        model = packed_model(
            [load_model(member.path) for member in members],
            inputs["alphas"],
            inputs["labels"],
            inputs["text_columns"],
            inputs["remainder"],
        )
        tokenizer = load_tokenizer(fetch_encoder(work.directory)[0])
        tokenizer.model_max_length = inputs["max_length"]
        tokenizer.save_pretrained(draft)
        model.save_pretrained(draft)
        loaded = BebertForSequenceClassification.from_pretrained(draft)
        scores, difference = _score(work, loaded, [load_logits(m.path) for m in members])
        facts.update(
            scores=scores,
            logit_difference=difference,
            bytes=stored_bytes(draft),
            seconds=work.checkpoints.seconds,
            versions=versions(),
        )
        (draft / CARD).write_text(model_card(inputs, facts))
        return facts

    return commit(path, stage, inputs, write)


def _score(
    work: Work, model: BebertForSequenceClassification, trained: list[Logits]
) -> tuple[dict[str, dict[str, float]], float]:
    """The ensemble's metrics by split, and how far a logit of a member is off at the most."""
    size = work.config.training.eval_batch_size
    splits = {"selection": work.splits.selection, **work.splits.dev}
    scores, difference = {}, 0.0
    for name, columns in splits.items():
        # Here alone: helpers know the trained members, not the packed ones.
        logits = np.stack([predict(work.place(each), columns, size) for each in model.members])
        before = np.stack([each[name] for each in trained])
        difference = max(difference, float(np.abs(logits - before).max(initial=0.0)))
        scores[name] = evaluate(
            work.splits.task, combine(logits, model.config.alphas), columns.labels
        )
    return scores, difference
