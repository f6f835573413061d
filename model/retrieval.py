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
from model.data import WHOLE, BatchOrder, Captions, FeatureStore, Index, Movable, Part, Regions, Words, pad_words
from model.embeddings import dequantise
from model.encoder import UnicoderVL
from model.errors import InputError
from model.losses import LossSums
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

    @property
    def counts(self) -> Tensor:
        """(1,) f32: the pairs, each of which has one hinge."""
        return torch.tensor([len(self.image_slots)], dtype=torch.float32)


class RetrievalBatches:
    """Step number to batch. Negatives are images, and captions of images, of the sample's window of shards."""

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
        rows = captions.image_rows
        self._order = BatchOrder(config.seed, config.batch_size, store.shard_of[rows], rows, shelf=store)
        self._by_image = np.argsort(rows, kind="stable")
        self._sorted_images = rows[self._by_image]

    def __call__(self, step: int, part: Part = WHOLE) -> RetrievalBatch:
        negatives = self._config.negatives
        image_rows: list[Index] = []
        caption_rows: list[Index] = []
        for epoch, sample in self._order.step(step, part):
            rng = generator(self._config.seed, "negatives", epoch, sample)
            own = int(self._captions.image_rows[sample])
            others = self._order.window(epoch, sample)
            others = others[others != own]
            strangers = others[rng.integers(len(others), size=negatives)]
            wrong_captions = [rng.choice(self._captions_of(image)) for image in strangers.tolist()]
            wrong_images = others[rng.integers(len(others), size=negatives)]
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

    def _captions_of(self, image: int) -> Index:
        first, stop = np.searchsorted(self._sorted_images, [image, image + 1])
        return self._by_image[first:stop]


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


def hinge_losses(logits: Tensor, config: FinetuneConfig, hardest: bool) -> Tensor:
    """The two hinges of each pair, added: (B,).

    Args:
        logits: (B, 1 + 2 N), as `RetrievalBatch` orders them.
        hardest: take each side's largest hinge (the paper) or the mean of them (`mean_hinge_share`).
    """
    scores = torch.sigmoid(logits) if config.score == "sigmoid" else logits
    hinges = (config.margin - scores[:, :1] + scores[:, 1:]).clamp(min=0)
    captions, images = hinges.chunk(2, dim=1)
    if hardest:
        return config.text_weight * captions.amax(1) + config.image_weight * images.amax(1)
    return config.text_weight * captions.mean(1) + config.image_weight * images.mean(1)


def retrieval_losses(model: UnicoderVL, batch: RetrievalBatch, config: FinetuneConfig, step: int) -> LossSums:
    """The hinge loss, K = 1; a pair is right when it scores above all of its negatives."""
    logits = score_pairs(model, batch)
    hinges = hinge_losses(logits, config, hardest=step >= config.mean_hinge_share * config.steps)
    right = (logits[:, :1] > logits[:, 1:]).all(1)
    return LossSums(("hinge",), hinges.sum().unsqueeze(0), right.sum().float().unsqueeze(0))
