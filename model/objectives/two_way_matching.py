"""Image-text matching (ITM) as two classes, with word-region alignment (WRA): UNITER, section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor

from model.families.family import Encoded
from model.families.heads import ITM
from model.families.model import VisionLanguageModel
from model.objectives.alignment import transport_distances
from model.objectives.config import PretrainConfig
from model.objectives.matching import targets
from model.objectives.objective import Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, cross_entropy, states_at


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    """Cross entropy, and `alignment_weight` times the distance of right pairs less that of wrong ones.

    The paper writes the distance alone; that wrong pairs are pushed apart is the published program's.
    """
    logits = model.head("itm")(model.pooler(states_at(encoded.words, targets)))
    total, right = cross_entropy(logits, targets.values)
    if config.alignment_weight and len(targets):
        total = total + config.alignment_weight * _alignment(encoded, batch, targets)
    return total, right


def _alignment(encoded: Encoded, batch: PretrainBatch, targets: Targets) -> Tensor:
    """Distances of right pairs less those of wrong ones. Images without regions have none."""
    word_mask, region_mask = (mask.index_select(0, targets.pairs) for mask in (batch.words.mask, batch.regions.mask))
    words, regions = (states.index_select(0, targets.pairs) for states in (encoded.words, encoded.regions))
    distances = transport_distances(words, regions, word_mask, region_mask)
    signs = torch.where(targets.values > 0, 1.0, -1.0)
    return (signs * distances).sum()


OBJECTIVE = Objective(
    name="itm",
    targets=targets,
    loss=loss,
    heads=lambda sizes: ITM,
    needs_wrong_pairs=True,
    reads_cls=True,
)
