"""The packed model of a finished run: written, loaded again, scored, and described in a card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bebert_ray.boosting.cascade import CURVE, answers, choose
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate, primary
from bebert_ray.data.tasks import Task
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
from bebert_ray.training.predict import predict
from bebert_ray.training.work import Work, load_logits, versions


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
        `scores` (of selection and dev), `cascade` (see `_cascade`), `logit_difference` (the largest
        between a member's logits here and those that it was weighted by), `bytes` (see
        `summary.stored_bytes`), `seconds` and `versions`.
    """
    members = [fetch(Layout(work.directory).members / name) for name in inputs["members"]]
    facts: dict[str, Any] = {}
    splits = {"selection": work.splits.selection, **work.splits.dev}

    def write(draft: Path) -> Mapping[str, Any]:
        model = packed_model(
            [load_model(member.path) for member in members],
            inputs["alphas"],
            inputs["labels"],
            inputs["text_columns"],
            inputs["remainder"],
        )
        logits = {name: np.stack([load_logits(m.path)[name] for m in members]) for name in splits}
        cascade = _cascade(work.splits.task, splits, logits, inputs)
        if cascade:
            model.config.cascade_settings = cascade["kept"]
        tokenizer = load_tokenizer(fetch_encoder(work.directory)[0])
        tokenizer.model_max_length = inputs["max_length"]
        # Not into the draft itself: transformers makes a directory that is gone.
        with TemporaryDirectory(prefix="bebert-ray-") as scratch:
            tokenizer.save_pretrained(scratch)
            model.save_pretrained(scratch)
            for path in sorted(Path(scratch).iterdir()):
                shutil.copyfile(path, draft / path.name)
        loaded = BebertForSequenceClassification.from_pretrained(draft)
        scores, difference = _score(work, loaded, splits, logits)
        facts.update(
            scores=scores,
            cascade=cascade,
            logit_difference=difference,
            bytes=stored_bytes(draft),
            seconds=work.checkpoints.seconds,
            versions=versions(),
        )
        (draft / CARD).write_text(model_card(inputs, facts))
        return facts

    return commit(path, stage, inputs, write)


def _cascade(
    task: Task, splits: dict[str, Columns], logits: dict[str, np.ndarray], inputs: dict[str, Any]
) -> dict[str, Any] | None:
    """The cascade that the model keeps, and what it says; None for one member and in regression.

    Returns:
        `kept`: as `boosting.cascade.Cascade`, chosen on the selection split. `curve`: of several
        thresholds, the mean number of `members` asked and the `scores`, both by split; the first is
        the one that is kept.
    """
    alphas = inputs["alphas"]
    if task.is_regression or np.count_nonzero(alphas) < 2:
        return None

    def score(split: str, scores: np.ndarray) -> dict[str, float]:
        return evaluate(task, scores, splits[split].labels)

    kept = choose(
        logits["selection"],
        alphas,
        lambda scores: score("selection", scores)[primary(task)],
        inputs["cascade_loss"],
    )
    curve = []
    for threshold in (kept.threshold, *CURVE):
        said = {name: answers(each, alphas, threshold) for name, each in logits.items()}
        curve.append(
            {
                "threshold": threshold,
                "members": {name: float(asked.mean()) for name, (_, asked) in said.items()},
                "scores": {name: score(name, scores) for name, (scores, _) in said.items()},
            }
        )
    return {"kept": asdict(kept), "curve": curve}


def _score(
    work: Work,
    model: BebertForSequenceClassification,
    splits: dict[str, Columns],
    trained: dict[str, np.ndarray],
) -> tuple[dict[str, dict[str, float]], float]:
    """The ensemble's metrics by split, and the largest difference to a logit in training."""
    size = work.config.training.eval_batch_size
    scores, difference = {}, 0.0
    for name, columns in splits.items():
        # In this process alone: others have the trained members, not the packed ones.
        logits = np.stack([predict(work.place(each), columns, size) for each in model.members])
        difference = max(difference, float(np.abs(logits - trained[name]).max(initial=0.0)))
        task, alphas = work.splits.task, model.config.alphas
        scores[name] = ensemble_scores(task, logits, alphas, columns.labels)
    return scores, difference
