"""Masked language modelling: the word piece in a hidden place."""

from __future__ import annotations

from torch import Tensor

from model.families.unicoder_vl import Encoded, UnicoderVL
from model.objectives.targets import Targets, cross_entropy, states_at


def masked_words(model: UnicoderVL, encoded: Encoded, targets: Targets) -> tuple[Tensor, Tensor]:
    states = states_at(encoded.words, targets)
    logits = model.cls["predictions"](states, model.bert.embeddings.word_embeddings.weight)
    return cross_entropy(logits, targets.labels)
