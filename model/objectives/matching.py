"""Visual-linguistic matching (VLM): whether caption and image belong together (Unicoder-VL section 3.2.3)."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from model.families.family import Encoded
from model.families.heads import MATCHING
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, states_at


def targets(draft: Draft) -> Targets:
    """[CLS] of each pair whose match is to be predicted, label 1 for a right one."""
    if draft.config.matching == "none":
        return Targets.none()
    pairs = np.flatnonzero(draft.opposed)
    return Targets.labels(pairs, np.zeros(len(pairs)), draft.matched[pairs])


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    logits = model.match(states_at(encoded.words, targets)).float()
    total = F.binary_cross_entropy_with_logits(logits, targets.values.float(), reduction="sum")
    return total, ((logits > 0) == (targets.values > 0)).sum().float()


OBJECTIVE = Objective(
    name="vlm",
    targets=targets,
    loss=loss,
    heads=lambda sizes: MATCHING,
    reads_cls=True,
    needs_wrong_pairs=True,
)
