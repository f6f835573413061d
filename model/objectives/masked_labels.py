"""Masked object classification: the detector's label of a hidden region."""

from __future__ import annotations

from torch import Tensor

from model.families.unicoder_vl import Encoded, UnicoderVL
from model.objectives.targets import Targets, cross_entropy, states_at


def masked_labels(model: UnicoderVL, encoded: Encoded, targets: Targets) -> tuple[Tensor, Tensor]:
    return cross_entropy(model.region_labels(states_at(encoded.regions, targets)), targets.labels)
