"""Recall over held-out images while a run trains."""

from __future__ import annotations

import numpy as np
import torch

from model.data.captions import Captions
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.metrics import RECALL_DEPTHS, retrieval_metrics
from model.downstream.retrieval.scores import WholeMatrix
from model.families.model import VisionLanguageModel

RECALL_VALUES = (
    *(f"validation_{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in RECALL_DEPTHS),
    "validation_recall_sum",
)


def held_out_recall(
    model: VisionLanguageModel,
    store: FeatureStore,
    captions: Captions,
    tokens: TokenTable,
    config: ScoringConfig,
    device: torch.device,
) -> dict[str, float]:
    """Recall in both directions over all images and captions given; values named as in `RECALL_VALUES`."""
    scores = WholeMatrix(score_split(model, store, captions, tokens, config, device))
    metrics = retrieval_metrics(scores, captions.image_of)
    return {f"validation_{name}": value for name, value in metrics.flat().items()}


def first_images(captions: Captions, count: int) -> Captions:
    """All captions of the first `count` images, in the order of the feature store."""
    rows = np.flatnonzero(np.isin(captions.image_rows, captions.images[:count])).tolist()
    return Captions(
        [captions.ids[row] for row in rows], [captions.texts[row] for row in rows], captions.image_rows[rows]
    )
