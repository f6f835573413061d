"""Retrieval as a task: pairs and their negatives, a hinge on the matching head, recall over held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from model.command import open_data
from model.config import FeatureSource, LongTexts
from model.data.captions import Captions
from model.data.order import Part
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable, Vocabulary, tokenize
from model.downstream.retrieval.batches import RetrievalBatch, RetrievalBatches
from model.downstream.retrieval.config import FinetuneConfig
from model.downstream.retrieval.held_out import RECALL_VALUES, first_images, held_out_recall
from model.downstream.retrieval.hinge import retrieval_losses
from model.downstream.task import Task
from model.families.config import EncoderConfig
from model.families.heads import MATCHING
from model.training.identity import data_identity
from model.training.loop import Validation


@dataclass(frozen=True)
class RetrievalData:
    """A split's images and captions, and the captions' tokens."""

    store: FeatureStore
    captions: Captions
    tokens: TokenTable
    vocabulary: Vocabulary

    @property
    def identity(self) -> dict[str, Any]:
        return data_identity(self.store, self.captions)

    @property
    def dropped(self) -> int:
        return self.captions.dropped


def _open(
    source: FeatureSource, vocabulary: Vocabulary, encoder: EncoderConfig, long_texts: LongTexts
) -> RetrievalData:
    return RetrievalData(*open_data(source, vocabulary, encoder, long_texts), vocabulary)


def _batches(
    data: RetrievalData, encoder: EncoderConfig, config: FinetuneConfig
) -> Callable[[int, Part], RetrievalBatch]:
    return RetrievalBatches(data.store, data.captions, data.tokens, data.vocabulary, encoder.max_regions, config)


def _validation(data: RetrievalData, job: Any, device: torch.device) -> Validation:
    """Recall over the split, or over its first images."""
    captions, tokens, count = data.captions, data.tokens, job.finetune.validation_images
    if count is not None and count < len(captions.images):
        captions = first_images(captions, count)
        tokens = tokenize(data.vocabulary, captions.texts, job.encoder.max_text_tokens)
    return Validation(
        RECALL_VALUES, lambda model: held_out_recall(model, data.store, captions, tokens, job.scoring, device)
    )


TRAINED: Task[RetrievalData, RetrievalBatch, FinetuneConfig] = Task(
    name="retrieval",
    open=_open,
    heads=lambda data: MATCHING,
    batches=_batches,
    losses=retrieval_losses,
    validation=_validation,
)
