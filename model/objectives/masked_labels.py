"""Masked object classification (MOC): the detector's label of a hidden region (Unicoder-VL section 3.2.2)."""

from __future__ import annotations

import numpy as np

from model.families.config import HeadConfig
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.masking import SEEN
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, cross_entropy, states_at


def targets(draft: Draft) -> Targets:
    """Each hidden region's label, but for regions that the detector takes for background."""
    regions = draft.regions
    known = (regions.scores > regions.background) & (regions.scores >= draft.config.min_label_score)
    pairs, places = np.nonzero((draft.treatments != SEEN) & draft.learns & known.numpy())
    return Targets.labels(pairs, places, regions.labels.numpy()[pairs, places])


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    return cross_entropy(model.head("region_labels")(states_at(encoded.regions, targets)), targets.values)


OBJECTIVE = Objective(
    name="moc",
    targets=targets,
    loss=loss,
    heads=lambda sizes: {"region_labels": HeadConfig(kind="linear", width=sizes.num_labels)},
    hides="regions",
)
