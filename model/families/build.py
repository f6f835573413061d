"""Build a model to train from scratch, fitted to its data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.data.store import FeatureStore
from model.data.tokenizer import Vocabulary
from model.errors import InputError
from model.families.bert import load_bert
from model.families.config import EncoderConfig, Heads, Sizes
from model.families.embeddings import Standardise, dequantise
from model.families.fit import check_features
from model.families.model import VisionLanguageModel

_STANDARDISE_IMAGES = 1024
"""Images over which feature_norm="standard" measures: the first of the split, so the result is reproducible; where none
of them has a region, the next as many, and so on."""


def build_model(
    encoder: EncoderConfig, store: FeatureStore, vocabulary: Vocabulary, seed: int, heads: Heads | None = None
) -> VisionLanguageModel:
    """Build a model whose widths fit the features and the vocabulary, with new weights or, on the text side, BERT's.

    Args:
        heads: those that it has. None: those of Unicoder-VL's pretraining.

    Raises:
        InputError: the encoder wants more regions than were extracted; `encoder.bert` cannot be had or does not fit;
            features are to be standardised and no image has a region.
    """
    torch.manual_seed(seed)
    model = VisionLanguageModel(
        vocab_size=vocabulary.size,
        feature_dim=store.manifest.feature_dim,
        num_labels=len(store.manifest.labels),
        sep_id=vocabulary.sep_id,
        encoder=encoder.model_dump(mode="json"),
        extractor=store.manifest.extractor,
    )
    check_features(model, store, "the encoder of this job")
    if encoder.bert is not None:
        load_bert(model, encoder.bert, vocabulary)
    for norm in model.modules():
        if isinstance(norm, Standardise):
            norm.fit(_features_to_measure(store, encoder.max_regions))
    return model if heads is None or heads == model.heads else model.with_heads(heads, seed)


def _features_to_measure(store: FeatureStore, max_regions: int) -> Tensor:
    """Features (N, D), N at least 1, of the first images that have any region."""
    for first in range(0, len(store), _STANDARDISE_IMAGES):
        regions = store.read(np.arange(first, min(len(store), first + _STANDARDISE_IMAGES)), max_regions)
        if regions.mask.any():
            return dequantise(regions)[regions.mask]
    raise InputError(
        f"{store.folder}: none of {len(store)} images has a region, so encoder.feature_norm='standard' has nothing to "
        "measure; extract with settings that find regions (a lower min_score), or set encoder.feature_norm to 'none'"
    )


def data_sizes(store: FeatureStore, vocabulary: Vocabulary) -> Sizes:
    """What a model's widths must be, for these features and this vocabulary."""
    return Sizes(vocabulary.size, store.manifest.feature_dim, len(store.manifest.labels))
