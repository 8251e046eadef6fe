"""The packed model of a finished run: written, loaded again, scored, and described in a card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bebert_ray.nn.bert import load_model
from bebert_ray.nn.checkpoint import load_tokenizer
from bebert_ray.packed.manifest import CARD
from bebert_ray.packed.model import BebertForSequenceClassification, packed_model
from bebert_ray.packed.summary import stored_bytes
from bebert_ray.pipeline.evaluate import ensemble_scores
from bebert_ray.pipeline.layout import Layout
from bebert_ray.pipeline.model_card import model_card
from bebert_ray.storage import Artifact, Location, commit, fetch
from bebert_ray.training.encoder import fetch_encoder
from bebert_ray.training.fit import predict
from bebert_ray.training.work import Logits, Work, load_logits, versions


def leave_packed(work: Work, path: Location, stage: str, inputs: dict[str, Any]) -> Artifact:
    """Pack the ensemble of a run into an artifact at `path`.

    The file is loaded again before the artifact is complete: its scores are those of the file.

    Args:
        work: see `Work`.
        path: directory of the artifact.
        stage: name of the step.
        inputs: all that the artifact depends on, see `pipeline.steps.model_step`: the directories
            of the `members`, `alphas`, `remainder`, `labels`, `text_columns`, `max_length` and the
            `config` for the card, among others.

    Returns:
        The artifact: a packed model with tokenizer, manifest and model card. Its facts hold
        `scores` (of selection and dev), `logit_difference` (the largest between a member's logits
        and those it had when it was trained), `bytes` (see
        `summary.stored_bytes`), `seconds` and `versions`.
    """
    members = [fetch(Layout(work.directory).members / name) for name in inputs["members"]]
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
        # Not into the draft itself: transformers makes a directory that is gone.
        with TemporaryDirectory(prefix="bebert-ray-") as scratch:
            tokenizer.save_pretrained(scratch)
            model.save_pretrained(scratch)
            for path in sorted(Path(scratch).iterdir()):
                shutil.copyfile(path, draft / path.name)
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
    """The ensemble's metrics by split, and the largest difference to a logit in training."""
    size = work.config.training.eval_batch_size
    splits = {"selection": work.splits.selection, **work.splits.dev}
    scores, difference = {}, 0.0
    for name, columns in splits.items():
        # In this process alone: others have the trained members, not the packed ones.
        logits = np.stack([predict(work.place(each), columns, size) for each in model.members])
        before = np.stack([each[name] for each in trained])
        difference = max(difference, float(np.abs(logits - before).max(initial=0.0)))
        task, alphas = work.splits.task, model.config.alphas
        scores[name] = ensemble_scores(task, logits, alphas, columns.labels)
    return scores, difference
