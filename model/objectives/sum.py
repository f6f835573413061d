"""The three pretraining losses: masked words (MLM), masked object labels (MOC), visual-linguistic matching (VLM).

Unicoder-VL (arXiv:1908.06066) sections 3.2.1 to 3.2.3; their weighted sum is minimised, by default unweighted as there.
"""

from __future__ import annotations

import torch

from model.families.unicoder_vl import UnicoderVL
from model.objectives.batches import PretrainBatch
from model.objectives.config import PretrainConfig
from model.objectives.hiding import hide_regions
from model.objectives.masked_labels import masked_labels
from model.objectives.masked_words import masked_words
from model.objectives.matching import matching
from model.training.losses import LossSums

LOSS_NAMES = ("mlm", "moc", "vlm")
"""In the order of `PretrainBatch.counts`."""


def pretraining_losses(model: UnicoderVL, batch: PretrainBatch, config: PretrainConfig) -> LossSums:
    """The three losses, each summed over its targets and weighted. Each head runs on predicted positions only.

    A head without targets still takes part, with a gradient of exactly zero, so that every process of a run has
    gradients for the same parameters.
    """
    encoded = model.bert(batch.words, batch.regions, hide_regions(batch.regions, batch.hidden))
    losses = [
        masked_words(model, encoded, batch.word_targets),
        masked_labels(model, encoded, batch.region_targets),
        matching(model, encoded, batch.matching),
    ]
    weights = (config.word_weight, config.label_weight, config.matching_weight)
    # Times floats of the host: a tensor of them would have to be copied, and the GPU be waited for.
    sums = torch.stack([weight * loss for weight, (loss, _) in zip(weights, losses, strict=True)])
    return LossSums(LOSS_NAMES, sums, torch.stack([correct for _, correct in losses]))
