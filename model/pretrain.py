"""Pretraining: python -m model.pretrain --config job.json (a `PretrainJob`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import write_whole
from model.command import run_job
from model.config import EncoderConfig, FeatureSource, PretrainJob
from model.data import Captions, FeatureStore, load_captions
from model.encoder import Standardise, UnicoderVL, dequantise
from model.objectives import PretrainBatch, PretrainBatches, pretraining_losses
from model.tokenizer import TokenTable, Vocabulary, load_vocabulary, tokenize
from model.training import STOPPED, set_up_torch, train

_STANDARDISE_IMAGES = 1024
"""Images over which feature_norm="standard" measures: the first of the split, so the result is reproducible."""


def build_model(encoder: EncoderConfig, store: FeatureStore, vocabulary: Vocabulary, seed: int) -> UnicoderVL:
    """A model with new weights whose widths fit the features and the vocabulary."""
    torch.manual_seed(seed)
    model = UnicoderVL(
        vocab_size=vocabulary.size,
        feature_dim=store.manifest.feature_dim,
        num_labels=len(store.manifest.labels),
        sep_id=vocabulary.sep_id,
        encoder=encoder.model_dump(mode="json"),
        extractor=store.manifest.extractor,
    )
    norm = model.bert.region_embeddings.feature_norm
    if isinstance(norm, Standardise):
        regions = store.read(np.arange(min(len(store), _STANDARDISE_IMAGES)), encoder.max_regions)
        norm.fit(dequantise(regions)[regions.mask])
    return model


def open_data(
    source: FeatureSource, vocabulary: Vocabulary, encoder: EncoderConfig
) -> tuple[FeatureStore, Captions, TokenTable]:
    """Feature store, captions and their tokens of one split."""
    store = FeatureStore(source.features_path)
    captions = load_captions(source, store)
    return store, captions, tokenize(vocabulary, captions.texts, encoder.max_text_tokens)


def run_pretraining(job: PretrainJob) -> int:
    set_up_torch(job.pretrain.num_threads)
    run = Path(job.run_path)
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / "job.json", job.model_dump_json(indent=2) + "\n")
    vocabulary = load_vocabulary(job.vocabulary_path)
    store, captions, tokens = open_data(job.train, vocabulary, job.encoder)
    batches = PretrainBatches(store, captions, tokens, vocabulary, job.encoder.max_regions, job.pretrain)

    def loss(model: UnicoderVL, batch: PretrainBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        losses = pretraining_losses(model, batch)
        return losses.total, {
            "mlm": losses.mlm,
            "moc": losses.moc,
            "vlm": losses.vlm,
            "mlm_accuracy": losses.mlm_accuracy,
            "moc_accuracy": losses.moc_accuracy,
            "vlm_accuracy": losses.vlm_accuracy,
        }

    done = train(
        "pretrain",
        run,
        lambda: build_model(job.encoder, store, vocabulary, job.pretrain.seed),
        batches,
        loss,
        job.pretrain,
        job.vocabulary_path,
    )
    return 0 if done else STOPPED


if __name__ == "__main__":
    sys.exit(run_job("model.pretrain", PretrainJob, run_pretraining))
