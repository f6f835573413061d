"""Masked RoI classification: the likeliest object class of a hidden region (VL-BERT, section 3.3)."""

from __future__ import annotations

from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.hidden_classes import targets
from model.objectives.objective import Loss, Objective, PretrainBatch
from model.objectives.region_distributions import region_head
from model.objectives.targets import Targets, cross_entropy, states_at


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    return cross_entropy(model.head("mvrc")(states_at(encoded.regions, targets)), targets.values)


OBJECTIVE = Objective(name="mvrc-hard", targets=targets, loss=loss, heads=region_head, hides="regions")
