"""Forward and backward of a pretraining step: our encoder against transformers' VisualBertForPreTraining.

Same layers, widths, vocabulary, batch and length, one thread. Both predict masked words and matching; ours predicts
masked regions' labels as well and turns bytes into features. The optimiser is left out: it is the same for both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from transformers import VisualBertConfig, VisualBertForPreTraining

from model.config import EncoderConfig
from model.data import Regions, Words
from model.encoder import UnicoderVL
from model.masking import IGNORE, ZEROED
from model.objectives import PretrainBatch, pretraining_losses
from tests.bench.clock import cpu_cost

BATCH, WORDS, REGIONS, WIDTH = 4, 43, 100, 2048
VOCABULARY, LABELS, MASKED = 30_522, 1_600, 0.15
ROUNDS = 3


def run() -> Iterator[str]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = _ours()
    theirs = _visual_bert()
    size = EncoderConfig()
    yield (
        f"pretraining step on the CPU, {size.num_layers} layers x {size.hidden_size}, batch {BATCH}, "
        f"{WORDS + 1 + REGIONS} positions: {ours:.2f} CPU-s"
    )
    yield f"  {ours / theirs:.2f} x transformers VisualBertForPreTraining ({theirs:.2f} CPU-s)"


def _ours() -> float:
    model = UnicoderVL(VOCABULARY, WIDTH, LABELS, sep_id=102).train()
    batch = _batch()

    def step() -> None:
        pretraining_losses(model, batch).total.backward()
        model.zero_grad(set_to_none=True)

    return cpu_cost(step, ROUNDS)


def _visual_bert() -> float:
    size = EncoderConfig()
    config = VisualBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden_size,
        visual_embedding_dim=WIDTH,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.intermediate_size,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.attention_dropout,
    )
    model = VisualBertForPreTraining(config).train()
    # One word more than ours has before its regions: ours has a closing [SEP] behind them.
    words = torch.randint(1000, VOCABULARY, (BATCH, WORDS + 1))
    targets = torch.full((BATCH, WORDS + 1 + REGIONS), -100)
    chosen = torch.rand(BATCH, WORDS + 1) < MASKED
    targets[:, : WORDS + 1][chosen] = words[chosen]
    inputs = {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "visual_embeds": torch.rand(BATCH, REGIONS, WIDTH),
        "visual_attention_mask": torch.ones(BATCH, REGIONS, dtype=torch.int64),
        "visual_token_type_ids": torch.ones(BATCH, REGIONS, dtype=torch.int64),
        "labels": targets,
        "sentence_image_labels": torch.arange(BATCH) % 2,
    }

    def step() -> None:
        model(**inputs).loss.backward()
        model.zero_grad(set_to_none=True)

    return cpu_cost(step, ROUNDS)


def _batch() -> PretrainBatch:
    corner = torch.rand(BATCH, REGIONS, 2) * 200
    regions = Regions(
        features=torch.randint(0, 256, (BATCH, REGIONS, WIDTH), dtype=torch.uint8),
        scales=torch.full((BATCH, REGIONS), 2.0),
        boxes=torch.cat([corner, corner + 50], -1),
        sizes=torch.tensor([[640.0, 480.0]]).repeat(BATCH, 1),
        labels=torch.randint(0, LABELS, (BATCH, REGIONS)),
        scores=torch.full((BATCH, REGIONS), 0.5),
        background=torch.full((BATCH, REGIONS), 0.1),
        mask=torch.ones(BATCH, REGIONS, dtype=torch.bool),
    )
    ids = torch.randint(1000, VOCABULARY, (BATCH, WORDS))
    hidden_words, hidden_regions = torch.rand(BATCH, WORDS) < MASKED, torch.rand(BATCH, REGIONS) < MASKED
    return PretrainBatch(
        words=Words(ids, torch.ones_like(ids, dtype=torch.bool)),
        regions=regions,
        word_targets=torch.where(hidden_words, ids, IGNORE),
        region_targets=torch.where(hidden_regions, regions.labels, IGNORE),
        region_fate=hidden_regions.to(torch.int8) * ZEROED,
        matched=torch.from_numpy(np.arange(BATCH) % 2 == 0),
    )
