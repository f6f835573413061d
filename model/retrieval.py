"""Retrieval finetuning: negatives on both sides and the hinge loss on the hardest of them.

Unicoder-VL (arXiv:1908.06066) section 3.3: the score of a pair is the matching head's; for each matched pair the
loss is max(0, margin - s(i, c) + s(i, c')) + max(0, margin - s(i, c) + s(i', c)) over the hardest sampled negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.config import FinetuneConfig
from model.data import BatchOrder, Captions, FeatureStore, Index, Movable, Regions, Words, pad_words
from model.encoder import UnicoderVL, dequantise
from model.errors import InputError
from model.masking import generator
from model.tokenizer import TokenTable, Vocabulary


@dataclass(frozen=True)
class RetrievalBatch(Movable):
    """B matched pairs with N wrong captions and N wrong images each. Every distinct image is read once.

    Shapes: image_slots and word_slots (B, 1 + 2 N) i64, positions in `regions` and `words`: column 0 is the matched
    pair, then N wrong captions, then N wrong images.
    """

    words: Words
    regions: Regions
    image_slots: Tensor
    word_slots: Tensor


class RetrievalBatches:
    """Step number to batch; negatives are drawn uniformly from the whole split, by (seed, epoch, sample)."""

    def __init__(
        self,
        store: FeatureStore,
        captions: Captions,
        tokens: TokenTable,
        vocabulary: Vocabulary,
        max_regions: int,
        config: FinetuneConfig,
    ) -> None:
        if len(np.unique(captions.image_rows)) < 2:
            raise InputError("the hinge loss needs captions of at least two images, so that there is a wrong one")
        self._store, self._captions, self._tokens = store, captions, tokens
        self._vocabulary, self._max_regions, self._config = vocabulary, max_regions, config
        self._order = BatchOrder(config.seed, config.batch_size, store.shard_of[captions.image_rows])

    def __call__(self, step: int) -> RetrievalBatch:
        negatives = self._config.negatives
        image_rows: list[Index] = []
        caption_rows: list[Index] = []
        for epoch, sample in self._order.step(step):
            rng = generator(self._config.seed, "negatives", epoch, sample)
            own = int(self._captions.image_rows[sample])
            wrong_captions = self._wrong_captions(own, rng)
            wrong_images = self._captions.image_rows[self._wrong_captions(own, rng)]
            image_rows.append(np.concatenate([np.full(1 + negatives, own, np.int64), wrong_images]))
            caption_rows.append(np.concatenate([[sample], wrong_captions, np.full(negatives, sample)]))
        images, image_slots = np.unique(np.stack(image_rows), return_inverse=True)
        texts, word_slots = np.unique(np.stack(caption_rows), return_inverse=True)
        shape = (len(image_rows), 1 + 2 * negatives)
        return RetrievalBatch(
            words=pad_words([self._tokens[int(row)] for row in texts], self._vocabulary.pad_id),
            regions=self._store.read(images, self._max_regions),
            image_slots=torch.from_numpy(image_slots.reshape(shape)),
            word_slots=torch.from_numpy(word_slots.reshape(shape)),
        )

    def _wrong_captions(self, own: int, rng: np.random.Generator) -> Index:
        """N random captions of images other than `own`."""
        rows = self._captions.image_rows
        chosen = rng.integers(len(rows), size=self._config.negatives)
        while (wrong := rows[chosen] == own).any():
            chosen[wrong] = rng.integers(len(rows), size=int(wrong.sum()))
        return chosen


def score_pairs(model: UnicoderVL, batch: RetrievalBatch) -> Tensor:
    """Matching logits (B, 1 + 2 N). Images and captions are embedded once and gathered."""
    bert = model.bert
    text, closing = bert.embed_words(batch.words)
    regions = bert.embed_regions(batch.regions, dequantise(batch.regions))
    image, word = batch.image_slots.flatten(), batch.word_slots.flatten()
    states = bert.join(text[word], closing[word], regions[image])
    mask = bert.join_masks(batch.words.mask[word], batch.regions.mask[image])
    cls = bert.run(states, mask, cls_only=True)[:, 0]
    logits: Tensor = model.match(cls).view_as(batch.image_slots).float()
    return logits


def hinge_loss(logits: Tensor, config: FinetuneConfig, hardest: bool) -> Tensor:
    """Mean over the batch of the two hinges.

    Args:
        logits: (B, 1 + 2 N), as `RetrievalBatch` orders them.
        hardest: take each side's largest hinge (the paper) or the mean of them (`mean_hinge_share`).
    """
    scores = torch.sigmoid(logits) if config.score == "sigmoid" else logits
    hinges = (config.margin - scores[:, :1] + scores[:, 1:]).clamp(min=0)
    captions, images = hinges.chunk(2, dim=1)
    if hardest:
        sides = config.text_weight * captions.amax(1) + config.image_weight * images.amax(1)
    else:
        sides = config.text_weight * captions.mean(1) + config.image_weight * images.mean(1)
    return sides.mean()
