"""Grow the tables of a pretrained UNITER for tasks with more kinds of text and images, and with words of their own."""

from __future__ import annotations

import numpy as np
import torch

from model.errors import InputError
from model.families.config import HeadConfig
from model.families.model import VisionLanguageModel
from model.families.uniter_config import UniterConfig

_TYPES = "bert.embeddings.token_type_embeddings.weight"
_WORDS = "bert.embeddings.word_embeddings.weight"
_BIAS = "cls.predictions.bias"
_COPIED = {3: (0, 1, 1), 4: (0, 1, 0, 0)}
"""The rows that tables of 3 and of 4 begin as: a second image as the first; answer and rationale as other words."""


def grow_types(model: VisionLanguageModel, rows: int) -> VisionLanguageModel:
    """The same model with a type table of 3 rows (NLVR2) or 4 (VCR), new ones copied as the published program does.

    Raises:
        InputError: the model is of another family, or its table has neither 2 rows nor as many as asked for.
    """
    config = model.config
    if not isinstance(config, UniterConfig):
        raise InputError(f"type tables of {rows} rows are UNITER's, but this model is of family {config.family}")
    if config.type_rows == rows:
        return model
    if config.type_rows != 2 or rows not in _COPIED:
        raise InputError(
            f"a type table of {config.type_rows} rows does not grow to {rows}; start from a checkpoint of 2 rows, or "
            f"of {rows}"
        )
    weights = model.state_dict()
    weights[_TYPES] = weights[_TYPES][list(_COPIED[rows])]
    return model.of_weights(weights, encoder=config.model_copy(update={"type_rows": rows}))


def grow_words(model: VisionLanguageModel, vocab_size: int, seed: int) -> VisionLanguageModel:
    """The same model with more word pieces: rows drawn as first weights are, and a bias of 0 in the word head.

    Raises:
        InputError: the model has more pieces than that.
    """
    added = vocab_size - model.vocab_size
    if added < 0:
        raise InputError(
            f"this model has {model.vocab_size} word pieces, more than {vocab_size}; use its own vocabulary"
        )
    drawn = np.random.default_rng(seed).normal(0, model.config.initializer_range, (added, model.config.hidden_size))
    weights, heads = model.state_dict(), dict(model.heads)
    weights[_WORDS] = torch.cat([weights[_WORDS], torch.from_numpy(drawn).to(weights[_WORDS])])
    if "cls" in heads:
        weights[_BIAS] = torch.cat([weights[_BIAS], weights[_BIAS].new_zeros(added)])
        heads["cls"] = HeadConfig(kind="words", width=vocab_size)
    return model.of_weights(weights, heads=heads, vocab_size=vocab_size)
