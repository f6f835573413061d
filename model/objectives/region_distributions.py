"""Masked region classification of VL-BERT's program: cross entropy with the detector's distribution over classes.

VL-BERT (arXiv:1908.08530, section 3.3) predicts the likeliest class; `region_categories.py` does so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.families.config import HeadConfig, Heads, Sizes
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.masking import SEEN
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, states_at

_FAULT = 0.1
"""A region whose distribution's sum is this far from 1 is no target."""


def region_head(sizes: Sizes) -> Heads:
    """Linear, GELU, linear, over the background, which is class 0, and the detector's classes."""
    return {"mvrc": HeadConfig(kind="mlp", width=1 + sizes.num_labels, norm=False)}


def are_distributions(values: Tensor) -> Tensor:
    """Which of (..., 1 + C) sum to 1, roughly; (...) bool."""
    return (values.sum(-1) - 1).abs() < _FAULT


def targets(draft: Draft) -> Targets:
    """Hidden regions, each with its distribution (1 + C), background first."""
    scores = draft.regions.class_scores
    assert scores is not None
    hidden = torch.from_numpy((draft.treatments != SEEN) & draft.learns)
    pairs, places = (hidden & are_distributions(scores)).nonzero(as_tuple=True)
    return Targets(pairs, places, scores[pairs, places])


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    """-sum_c p_c log q_c: KL of the two, plus what the model cannot change. Right is the likeliest class."""
    found = model.head("mvrc")(states_at(encoded.regions, targets)).float().log_softmax(-1)
    wanted = targets.values.float().reshape(found.shape)
    right = (found.argmax(-1) == wanted.argmax(-1)).sum().float()
    return -(wanted * found).sum(), right


OBJECTIVE = Objective(
    name="mvrc", targets=targets, loss=loss, heads=region_head, hides="regions", needs_class_scores=True
)
