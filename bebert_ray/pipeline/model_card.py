"""The model card of a packed model: use, scores, sizes, and the configuration of its run."""

from __future__ import annotations

from typing import Any

import yaml

from bebert_ray.packed.quantizer import FLOAT_BITS

CARD = """\
---
library_name: transformers
pipeline_tag: text-classification
tags:
- binary-weights
- ensemble
- bebert
---

# {task}: {what}

Weights and word embeddings of one bit (`{bits}`: bits of weights, embeddings and activations),
trained by [bebert_ray](https://arxiv.org/abs/2210.15976) {version}. {labels}

## Use

```python
import bebert_ray.packed  # lets transformers read the packed format; no trust_remote_code
from transformers import pipeline

classify = pipeline("text-classification", "PATH/OF/THIS/DIRECTORY", truncation=True)
classify({example})
```

`AutoModelForSequenceClassification.from_pretrained` and `AutoTokenizer.from_pretrained` work as
well. The softmax of the logits is the mean of the members' probabilities, weighted by their alphas.

## Scores

Of these files, loaded again after they were written. Choices were made on `selection`.

| split | {metrics} |
|---|{rules}|
{scores}

Floats are stored in {float_bits} bits; no logit of a member differs by more than {difference:.2g}
from what it was in training.

## Size

| part | MB |
|---|---|
| binary weights | {weights_mb:.2f} |
| their scales, 32 bits | {scales_mb:.2f} |
| all that stays float, {float_bits} bits | {floats_mb:.2f} |
| `model.safetensors` on disk | {file_mb:.2f} |

What members have in common is stored, and counted, once.

## Made with

Seed {seed}. Alphas: {alphas}. {versions}

```yaml
{config}```
"""


def model_card(inputs: dict[str, Any], facts: dict[str, Any]) -> str:
    """The text of the card.

    Args:
        inputs: of the packed model, see `pipeline.pack.leave_packed`.
        facts: `scores`, `logit_difference`, `bytes` and `versions` of it.
    """
    config, scores = inputs["config"], facts["scores"]
    metrics = list(next(iter(scores.values())))
    pair = len(inputs["text_columns"]) > 1
    rows = [
        f"| {split} | {' | '.join(f'{values[metric]:.4f}' for metric in metrics)} |"
        for split, values in scores.items()
    ]
    members = len(inputs["alphas"])
    labels = inputs["labels"]
    return CARD.format(
        task=config["task"],
        what="one binary BERT" if members == 1 else f"an ensemble of {members} binary BERTs",
        bits=config["bits"],
        version=facts["versions"]["bebert_ray"],
        labels=f"Labels: {', '.join(labels)}." if labels else "It predicts a score.",
        example='{"text": "…", "text_pair": "…"}' if pair else '"…"',
        metrics=" | ".join(metrics),
        rules="|".join("---" for _ in metrics),
        scores="\n".join(rows),
        float_bits=FLOAT_BITS[inputs["remainder"]],
        difference=facts["logit_difference"],
        **{f"{name}_mb": size / 1e6 for name, size in facts["bytes"].items()},
        seed=config["seed"],
        alphas=", ".join(f"{alpha:.4g}" for alpha in inputs["alphas"]),
        versions=", ".join(f"{name} {text}" for name, text in facts["versions"].items()) + ".",
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
