"""Whether a tokenizer and a model belong together: every id that can occur has a row in its table.

A row that is missing ends in an error of the embedding in the middle of a run, and on a GPU in a
message about an assertion.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from bebert_ray.errors import UserError

SPECIAL = ("pad", "unk", "cls", "sep")


def check_ids(tokenizer: Any, config: Any, name: str, pairs: bool) -> None:
    """Check the ids of tokens, added ones included, and of the two texts of a pair.

    Args:
        tokenizer: of transformers.
        config: of the model, with `vocab_size` and `type_vocab_size` where it has such tables.
        name: what messages begin with, such as `model: DIR`.
        pairs: whether texts come in pairs.

    Raises:
        UserError: an id has no row in its table, or the tokenizer cannot read a text.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    if not any(token.strip() and token not in special for token in vocabulary):
        # Without its files, transformers makes a tokenizer that turns every word to [UNK].
        raise UserError(
            f"{name}: the tokenizer knows no word; its files are missing or empty (tokenizer.json, "
            "vocab.txt or the like)"
        )
    rows = setting(config, "vocab_size")
    last = max(vocabulary, key=vocabulary.__getitem__, default=None)
    if rows is not None and last is not None and vocabulary[last] >= rows:
        raise UserError(
            f"{name}: the tokenizer knows {len(vocabulary)} tokens, {last[:40]!r} with the id "
            f"{vocabulary[last]}, and the weights {rows}: they do not belong together"
        )
    try:
        probe = tokenizer(*["a \u2603"] * (1 + pairs))
    except Exception as error:  # the backend raises plain exceptions
        reason = (str(error).splitlines() or [repr(error)])[0][:150]
        raise UserError(f"{name}: the tokenizer cannot read a text: {reason}") from error
    kinds = setting(config, "type_vocab_size")
    kind = max(probe.get("token_type_ids") or [0])
    if kinds and kind >= kinds:  # 0: the model has no such table, and does not look at them
        raise UserError(
            f"{name}: the texts are pairs, and type_vocab_size is {kinds}: the second text has no "
            "row in the table of token types; give a model that was trained on pairs"
        )


def check_special(tokenizer: Any, directory: Path) -> None:
    """Check that a BERT's tokenizer has the tokens that examples are made with.

    Args:
        tokenizer: read from `directory`.
        directory: of the checkpoint.

    Raises:
        UserError: one is not set, or is in no file: transformers adds it as a new one then, with an
            id that the model has never seen.
    """
    stored = set(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False))
    for file, key in (("tokenizer.json", "added_tokens"), ("added_tokens.json", None)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            added = json.loads((directory / file).read_text(encoding="utf-8"))
            stored |= set(added) if key is None else {each["content"] for each in added[key]}
    for role in SPECIAL:
        token = getattr(tokenizer, f"{role}_token")
        if token is None:
            raise UserError(
                f"model: the tokenizer in {directory} has no {role}_token, which BERT needs; set it"
                " in tokenizer_config.json"
            )
        if token not in stored:
            raise UserError(
                f"model: the tokenizer in {directory} has no {str(token)[:40]} in its vocabulary "
                f"(its {role}_token), which BERT needs; give the files that the model was trained "
                "with"
            )


def setting(config: Any, name: str) -> int | None:
    """A size from a model's configuration, or from that of a packed ensemble's members."""
    members = getattr(config, "member", None)
    value = getattr(config, name, None)
    if value is None and isinstance(members, dict):
        value = members.get(name)
    return value if isinstance(value, int) else None
