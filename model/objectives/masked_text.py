"""Masked language modelling of text alone: rows of a text corpus beside the pairs (VL-BERT, section 3.3)."""

from __future__ import annotations

from model.families.config import HeadConfig
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, cross_entropy, states_at


def targets(draft: Draft) -> Targets:
    """None of the pairs: `text_rows.py` makes those of the rows of text, whose pairs and places are rows and places."""
    return Targets.none()


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    """The rows go through the layers here: what is read of the pairs is `encoded`."""
    if batch.text is None:
        # Of pairs that no text is beside, as in validation.
        return model.bert.word_table.sum() * 0.0, model.bert.word_table.new_zeros(())
    head = model.head("cls").get_submodule("predictions")
    states = states_at(model.bert.encode_text(batch.text), targets)
    return cross_entropy(head(states, model.bert.word_table), targets.values)


OBJECTIVE = Objective(
    name="mlm-text",
    targets=targets,
    loss=loss,
    heads=lambda sizes: {"cls": HeadConfig(kind="words", width=sizes.vocab_size)},
    reads_text=True,
)
