"""The losses of a step: of every chosen objective, weighted, to be summed.

Unicoder-VL (arXiv:1908.06066) minimises the unweighted sum of its three (section 3.2); UNITER (arXiv:1909.11740) draws
one a step.
"""

from __future__ import annotations

import torch

from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.hiding import hide_regions
from model.objectives.objective import PretrainBatch, by_corpus, chosen_objectives
from model.objectives.turns import loss_names
from model.training.losses import LossSums


def pretraining_losses(model: VisionLanguageModel, batch: PretrainBatch, config: PretrainConfig) -> LossSums:
    """Every objective's loss, summed over its targets and weighted. Each head runs on predicted positions only.

    A head without targets still takes part, with a gradient of exactly zero, so that every process of a run has
    gradients for the same parameters.
    """
    features = hide_regions(batch.regions, batch.hidden)
    encoded = model.bert(batch.words, batch.regions, features, batch.hidden.zeroed)
    objectives = chosen_objectives(config)
    losses = [one.loss(model, encoded, batch, batch.targets[one.name], config) for one in objectives]
    # Times floats of the host: a tensor of them would have to be copied, and the GPU be waited for.
    sums = torch.stack([config.weight(one.name) * loss for one, (loss, _) in zip(objectives, losses, strict=True)])
    unknown = torch.full_like(sums[0].detach(), torch.nan)
    correct = torch.stack([unknown if right is None else right for _, right in losses])
    return LossSums(loss_names(config), by_corpus(sums, batch.corpus), by_corpus(correct, batch.corpus))
