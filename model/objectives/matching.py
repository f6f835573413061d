"""Visual-linguistic matching: whether caption and image belong together."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from model.families.unicoder_vl import Encoded, UnicoderVL
from model.objectives.targets import Targets, states_at


def matching(model: UnicoderVL, encoded: Encoded, targets: Targets) -> tuple[Tensor, Tensor]:
    logits = model.match(states_at(encoded.words, targets)).float()
    loss = F.binary_cross_entropy_with_logits(logits, targets.labels.float(), reduction="sum")
    return loss, ((logits > 0) == (targets.labels > 0)).sum().float()
