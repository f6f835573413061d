"""Masked region classification with KL (MRC-kl): the detector's distribution over classes (UNITER, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F

from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.hidden_classes import region_classes
from model.objectives.masking import SEEN
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, states_at, sum_of_vectors


def targets(draft: Draft) -> Targets:
    """Hidden regions, each with its distribution (1 + C), background first."""
    scores = draft.regions.class_scores
    assert scores is not None
    found = Targets.positions((draft.treatments != SEEN) & draft.learns)
    return Targets(found.pairs, found.places, scores[found.pairs, found.places])


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    """KL(detector, model). A class to which the detector gives probability 0 adds nothing."""
    found = model.head("region_classes")(states_at(encoded.regions, targets)).float().log_softmax(-1)
    wanted = targets.values.float().reshape(found.shape)
    right = (found.argmax(-1) == wanted.argmax(-1)).sum().float()
    return sum_of_vectors(F.kl_div(found, wanted, reduction="none"), config), right


OBJECTIVE = Objective(
    name="mrc-kl",
    targets=targets,
    loss=loss,
    heads=region_classes,
    hides="regions",
    needs_class_scores=True,
)
