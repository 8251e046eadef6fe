"""The model card of a packed model: what it is, how it scores, its size, what made it."""

from __future__ import annotations

import html
import re
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from bebert_ray.data.tasks import TASKS
from bebert_ray.nn.checkpoint import BUNDLED, BUNDLED_NAME
from bebert_ray.packed.quantizer import FLOAT_BITS

GLUE = "nyu-mll/glue"
METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""Names of metrics on the hub, where they are others than here."""

CARD = """\
---
{metadata}
---

# {task}: {what}

Weights and word embeddings of one bit (`{bits}`: bits of weights, embeddings and activations),
trained by [bebert_ray](https://arxiv.org/abs/2210.15976) {version}. {labels}

## Use

```sh
pip install bebert_ray
```

```python
import bebert_ray.packed  # registers the packed format with transformers; no trust_remote_code
from transformers import pipeline

classify = pipeline("text-classification", "PATH/OF/THIS/DIRECTORY", truncation=True)
classify({example})
```

`AutoModelForSequenceClassification.from_pretrained` and `AutoTokenizer.from_pretrained` work as
well. The softmax of the logits is the mean of the members' probabilities, weighted by their alphas.

## Scores

Of these very files, loaded again after they were written. `selection` is what choices were made on.

| split | {metrics} |
|---|{rules}|
{scores}

Floats are stored in {float_bits} bits, and members are rounded so before they are scored.

## Size

| part | MB |
|---|---|
| binary weights | {weights_mb:.2f} |
| their scales, 32 bits | {scales_mb:.2f} |
| all that stays float, {float_bits} bits | {floats_mb:.2f} |
| `model.safetensors` on disk | {file_mb:.2f} |

Tensors that members share are stored, and counted, once.

## Made with

Seed {seed}. Alphas: {alphas}. {versions}

{fence}yaml
{config}{fence}
"""


def model_card(inputs: dict[str, Any], facts: dict[str, Any]) -> str:
    """The text of the card.

    Args:
        inputs: of the packed model, see `pack.leave_packed`.
        facts: `scores`, `bytes` and `versions` of it.
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
    settings = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return CARD.format(
        metadata=metadata(config, scores).to_yaml(),
        task=markdown(config["task"]),
        what="one binary BERT" if members == 1 else f"an ensemble of {members} binary BERTs",
        bits=config["bits"],
        version=facts["versions"]["bebert_ray"],
        labels=f"Labels: {', '.join(map(markdown, labels))}." if labels else "It predicts a score.",
        example='{"text": "…", "text_pair": "…"}' if pair else '"…"',
        metrics=" | ".join(metrics),
        rules="|".join("---" for _ in metrics),
        scores="\n".join(rows),
        float_bits=FLOAT_BITS[inputs["remainder"]],
        **{f"{name}_mb": size / 1e6 for name, size in facts["bytes"].items()},
        seed=config["seed"],
        alphas=", ".join(f"{alpha:.4g}" for alpha in inputs["alphas"]),
        versions=", ".join(f"{name} {text}" for name, text in facts["versions"].items()) + ".",
        config=settings,
        # Longer than any in the settings, which so cannot end the block.
        fence=max(["``", *re.findall("`+", settings)], key=len) + "`",
    )


def metadata(config: dict[str, Any], scores: dict[str, dict[str, float]]) -> ModelCardData:
    """The card's metadata for the hub. What is not known is left out, such as the licence.

    Args:
        config: the settings of the run, of which `task` and `model` are used.
        scores: values of metrics by split.
    """
    task = config["task"]
    known = task in TASKS and bool(TASKS[task].directory)
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=GLUE if known else "custom",
            dataset_name=f"GLUE {task}" if known else task,
            dataset_config=task if known else None,
            dataset_split=split.replace("dev", "validation"),
            metric_type=METRICS.get(metric, metric),
            metric_value=value,
        )
        for split, values in scores.items()
        for metric, value in values.items()
        if split != "selection"
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["binary-weights", "ensemble", "bebert"],
        base_model=_hub_name(config["model"]),
        datasets=[GLUE] if known else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=f"bebert-{task}" if results else None,
        eval_results=results or None,
    )


def markdown(text: str) -> str:
    r"""Text of strangers as it can stand in Markdown: nothing in it is markup, and it is one line.

    Examples:
        >>> print(markdown("a\tb <b>*c*|"))
        a\\tb &lt;b&gt;\*c\*\|
    """
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return html.escape(re.sub(r"([\\`*_{}\[\]()#!|~])", r"\\\1", line), quote=False)


def _hub_name(model: str) -> str | None:
    """The name on the hub of the checkpoint that a run starts from, if it has one."""
    if model == BUNDLED:
        return BUNDLED_NAME
    try:
        validate_repo_id(model)
    except HFValidationError:
        return None
    # A relative path can look like a name. Names with a user are the only ones that are taken.
    return model if model.count("/") == 1 and not model.startswith((".", "~")) else None
