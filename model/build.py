"""A model to train from scratch, fitted to its data."""

from __future__ import annotations

import numpy as np
import torch

from model.bert import load_bert
from model.config import EncoderConfig
from model.data import FeatureStore
from model.embeddings import Standardise, dequantise
from model.encoder import UnicoderVL
from model.fit import check_features
from model.tokenizer import Vocabulary

_STANDARDISE_IMAGES = 1024
"""Images over which feature_norm="standard" measures: the first of the split, so the result is reproducible."""


def build_model(encoder: EncoderConfig, store: FeatureStore, vocabulary: Vocabulary, seed: int) -> UnicoderVL:
    """A model whose widths fit the features and the vocabulary, with new weights or, on the text side, BERT's.

    Raises:
        InputError: the encoder wants more regions than were extracted; `encoder.bert` cannot be had or does not fit.
    """
    torch.manual_seed(seed)
    model = UnicoderVL(
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
    norm = model.bert.region_embeddings.feature_norm
    if isinstance(norm, Standardise):
        regions = store.read(np.arange(min(len(store), _STANDARDISE_IMAGES)), encoder.max_regions)
        norm.fit(dequantise(regions)[regions.mask])
    return model
