"""Masked region feature regression (MRFR): the feature of a hidden region (UNITER, arXiv:1909.11740, section 3.2)."""

from __future__ import annotations

from model.families.config import HeadConfig
from model.families.embeddings import dequantise_rows
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import PretrainConfig
from model.objectives.masking import KEPT
from model.objectives.objective import Draft, Loss, Objective, PretrainBatch
from model.objectives.targets import Targets, states_at, sum_of_vectors


def targets(draft: Draft) -> Targets:
    """Hidden regions; one that was chosen and kept could be copied."""
    return Targets.positions((draft.treatments > KEPT) & draft.learns)


def loss(
    model: VisionLanguageModel, encoded: Encoded, batch: PretrainBatch, targets: Targets, config: PretrainConfig
) -> Loss:
    """Squared error over the D numbers of a feature."""
    scales = states_at(batch.regions.scales.unsqueeze(-1), targets).squeeze(-1)
    wanted = dequantise_rows(states_at(batch.regions.features, targets), scales)
    found = model.head("region_features")(states_at(encoded.regions, targets), model.bert.feature_projection)
    return sum_of_vectors((found.float() - wanted).square(), config), None


OBJECTIVE = Objective(
    name="mrfr",
    targets=targets,
    loss=loss,
    heads=lambda sizes: {"region_features": HeadConfig(kind="features", width=sizes.feature_dim)},
    hides="regions",
    has_accuracy=False,
)
