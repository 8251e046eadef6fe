"""A masked language model that proposes what may stand in the place of a word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bebert_ray.augment.vectors import is_word
from bebert_ray.augment.words import Word
from bebert_ray.errors import UserError

_BATCH = 64  # masked texts at a time


@dataclass(frozen=True)
class MaskedModel:
    """A masked-language BERT as plain data, which Ray holds once for all processes of a machine.

    Attributes:
        config: of the model.
        weights: arrays by name.
        tokenizer: a fast tokenizer.
    """

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    tokenizer: Any

    def open(self, device: torch.device) -> OpenModel:
        """The model, ready to be asked."""
        from transformers import BertConfig, BertForMaskedLM

        model: Any = BertForMaskedLM(BertConfig.from_dict(self.config))
        model.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in self.weights.items()}
        )
        model.to(device)
        return OpenModel(model.eval(), self.tokenizer, device)


@dataclass(frozen=True)
class OpenModel:
    """A masked-language BERT that can be asked.

    Attributes:
        model: in evaluation mode.
        tokenizer: its fast tokenizer.
        device: where the model is.
    """

    model: Any
    tokenizer: Any
    device: torch.device

    def propose(
        self, text: str, words: list[Word], count: int, numbers: bool
    ) -> dict[int, list[str]]:
        """The likeliest words in the place of each word that is one token, the likeliest first.

        Each word is masked in turn. Words beyond the model's longest input are left out.

        Args:
            text: the text.
            words: words of it.
            count: proposals for each; the word itself, in any case, is not among them.
            numbers: whether words with digits may be proposed.

        Returns:
            By index in `words`; words of several tokens are missing.
        """
        longest = self.model.config.max_position_embeddings
        encoded = self.tokenizer(
            text, return_offsets_mapping=True, truncation=True, max_length=longest
        )
        ids = torch.tensor(encoded["input_ids"])
        place = {tuple(offset): i for i, offset in enumerate(encoded["offset_mapping"])}
        unknown = self.tokenizer.unk_token_id
        asked = [
            (index, position)
            for index, word in enumerate(words)
            if (position := place.get((word.start, word.end))) is not None
            and ids[position] != unknown
        ]
        found: dict[int, list[str]] = {}
        for start in range(0, len(asked), _BATCH):
            part = asked[start : start + _BATCH]
            for (index, _), best in zip(part, self._best(ids, part, count), strict=True):
                word = words[index].text.lower()
                proposed = [
                    each
                    for each in self.tokenizer.convert_ids_to_tokens(best)
                    if is_word(each, numbers) and each.lower() != word
                ]
                found[index] = proposed[:count]
        return found

    def _best(self, ids: torch.Tensor, part: list[tuple[int, int]], count: int) -> list[list[int]]:
        rows, positions = torch.arange(len(part)), torch.tensor([position for _, position in part])
        masked = ids.repeat(len(part), 1)
        masked[rows, positions] = self.tokenizer.mask_token_id
        with torch.inference_mode():
            hidden = self.model.bert(masked.to(self.device)).last_hidden_state
            logits = self.model.cls(hidden[rows, positions])
        # Pieces of words and punctuation are passed over.
        best: list[list[int]] = logits.topk(min(4 * count + 16, logits.shape[-1])).indices.tolist()
        return best


def load_masked(path: Path) -> MaskedModel:
    """Load a masked-language BERT.

    Raises:
        UserError: it cannot be read, or has no masked-language head.
    """
    from transformers import AutoTokenizer, BertForMaskedLM

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        loaded: Any = BertForMaskedLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except Exception as error:
        raise UserError(f"data.augment.model: {path} cannot be read: {str(error)[:200]}") from error
    model, report = loaded
    # The decoder is tied to the word embeddings, and so is missing in some checkpoints.
    missing = [name for name in report["missing_keys"] if "decoder" not in name]
    if missing or tokenizer.mask_token_id is None:
        raise UserError(
            f"data.augment.model: {path} is no masked language model (it lacks "
            f"{missing[0] if missing else 'a mask token'}); give a BERT that was saved with its "
            "masked-language head, or leave it out: the encoder's word embeddings need no model"
        )
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return MaskedModel(model.config.to_dict(), weights, tokenizer)
