"""Masked language modelling (MLM): the word piece in a hidden place (Unicoder-VL section 3.2.1)."""

from __future__ import annotations

import numpy as np

from model.families.config import HeadConfig
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, cross_entropy, states_at


def targets(draft: Draft) -> Targets:
    pairs, places = np.nonzero(draft.hidden_words & draft.learns)
    return Targets.labels(pairs, places, draft.ids[pairs, places])


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    head = model.head("cls").get_submodule("predictions")
    return cross_entropy(head(states_at(encoded.words, targets), model.bert.word_table), targets.values)


OBJECTIVE = Objective(
    name="mlm",
    targets=targets,
    loss=loss,
    heads=lambda sizes: {"cls": HeadConfig(kind="words", width=sizes.vocab_size)},
    hides="words",
)
