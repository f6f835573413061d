"""Masked region classification (MRC): the likeliest object class of a hidden region (UNITER, section 3.2)."""

from __future__ import annotations

import numpy as np

from model.families.config import HeadConfig, Heads, Sizes
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.masking import SEEN
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, cross_entropy, states_at


def region_classes(sizes: Sizes) -> Heads:
    """Over the background, which is class 0, and the detector's classes."""
    return {"region_classes": HeadConfig(kind="mlp", width=1 + sizes.num_labels)}


def targets(draft: Draft) -> Targets:
    """The likeliest foreground class of each hidden region, even where the background is likelier still.

    So in the published program. Where the regions have no distribution, the detector's label stands in: the same,
    unless it was chosen by another rule than the largest score.
    """
    regions = draft.regions
    pairs, places = np.nonzero((draft.treatments != SEEN) & draft.learns)
    if regions.class_scores is None:
        return Targets.labels(pairs, places, 1 + regions.labels.numpy()[pairs, places])
    return Targets.labels(pairs, places, 1 + regions.class_scores.numpy()[pairs, places, 1:].argmax(-1))


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    return cross_entropy(model.head("region_classes")(states_at(encoded.regions, targets)), targets.values)


OBJECTIVE = Objective(name="mrc", targets=targets, loss=loss, heads=region_classes, hides="regions")
