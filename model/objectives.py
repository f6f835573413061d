"""The three pretraining losses: masked words (MLM), masked object labels (MOC), visual-linguistic matching (VLM).

Unicoder-VL (arXiv:1908.06066) sections 3.2.1 to 3.2.3; their unweighted sum is minimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import PretrainConfig
from model.data import BatchOrder, Captions, FeatureStore, Movable, Regions, Words, pad_targets, pad_words
from model.encoder import UnicoderVL, dequantise
from model.errors import InputError
from model.masking import IGNORE, NOISED, SWAPPED, ZEROED, generator, mask_regions, mask_words
from model.tokenizer import TokenTable, Vocabulary


@dataclass(frozen=True)
class PretrainBatch(Movable):
    """B pairs with what is hidden and what must be predicted.

    Shapes: word_targets (B, T) i64 and region_targets (B, R) i64, IGNORE where nothing is predicted; region_fate (B, R)
    i8, see `masking`; matched (B,) bool.
    """

    words: Words
    regions: Regions
    word_targets: Tensor
    region_targets: Tensor
    region_fate: Tensor
    matched: Tensor


@dataclass(frozen=True)
class Losses:
    """Mean losses of a batch (scalars), and how often each task was right (fractions; NaN without a target)."""

    mlm: Tensor
    moc: Tensor
    vlm: Tensor
    mlm_accuracy: Tensor
    moc_accuracy: Tensor
    vlm_accuracy: Tensor

    @property
    def total(self) -> Tensor:
        return self.mlm + self.moc + self.vlm


class PretrainBatches:
    """Step number to batch. Every choice comes from (seed, epoch, sample), so a step can be made at any time."""

    def __init__(
        self,
        store: FeatureStore,
        captions: Captions,
        tokens: TokenTable,
        vocabulary: Vocabulary,
        max_regions: int,
        config: PretrainConfig,
    ) -> None:
        if len(store) < 2:
            raise InputError("matching needs at least two images, so that there is a wrong one")
        self._store, self._captions, self._tokens = store, captions, tokens
        self._vocabulary, self._max_regions, self._config = vocabulary, max_regions, config
        self._is_special = np.zeros(vocabulary.size, np.bool_)
        self._is_special[list(vocabulary.special_ids)] = True
        self._words = np.flatnonzero(~self._is_special).astype(np.int32)
        self._order = BatchOrder(config.seed, config.batch_size, store.shard_of[captions.image_rows])

    def __call__(self, step: int) -> PretrainBatch:
        config = self._config
        pairs: list[tuple[int, int, int, bool]] = []
        for epoch, sample in self._order.step(step):
            own = int(self._captions.image_rows[sample])
            rng = generator(config.seed, "matching", epoch, sample)
            other = self._another(own, rng)
            if config.matching == "paired":
                pairs += [(epoch, sample, own, True), (epoch, sample, other, False)]
            else:
                matched = bool(rng.random() < 0.5)
                pairs.append((epoch, sample, own if matched else other, matched))
        return self._collate(pairs)

    def _another(self, own: int, rng: np.random.Generator) -> int:
        """A uniformly random image other than the caption's own."""
        drawn = int(rng.integers(len(self._store) - 1))
        return drawn + (drawn >= own)

    def _collate(self, pairs: Sequence[tuple[int, int, int, bool]]) -> PretrainBatch:
        config = self._config
        regions = self._store.read([row for _, _, row, _ in pairs], self._max_regions)
        # A region that the detector takes for background has no label to predict (section 3.2.2).
        usable = (regions.mask & (regions.scores > regions.background)).numpy()
        usable &= regions.scores.numpy() >= config.min_label_score
        labels, present = regions.labels.numpy().astype(np.int16), regions.mask.numpy()
        inputs: list[npt.NDArray[np.int32]] = []
        word_targets: list[npt.NDArray[np.int64]] = []
        region_targets = np.full(labels.shape, IGNORE, np.int64)
        fate = np.zeros(labels.shape, np.int8)
        for slot, (epoch, sample, _, matched) in enumerate(pairs):
            rng = generator(config.seed, "masking", epoch, sample)
            ids, targets = mask_words(
                self._tokens[sample],
                rng,
                config.word_mask_rate,
                self._vocabulary.mask_id,
                self._words,
                self._is_special,
            )
            hidden, predicted = mask_regions(
                labels[slot], usable[slot], rng, config.region_mask_rate, config.region_mask
            )
            if not (matched or config.mismatched_losses):
                targets, predicted = np.full_like(targets, IGNORE), np.full_like(predicted, IGNORE)
            inputs.append(ids)
            word_targets.append(targets)
            region_targets[slot], fate[slot] = predicted, np.where(present[slot], hidden, 0)
        words = pad_words(inputs, self._vocabulary.pad_id)
        return PretrainBatch(
            words=words,
            regions=regions,
            word_targets=pad_targets(word_targets, words.ids.shape[1]),
            region_targets=torch.from_numpy(region_targets),
            region_fate=torch.from_numpy(fate),
            matched=torch.tensor([matched for _, _, _, matched in pairs]),
        )


def hide_regions(features: Tensor, mask: Tensor, fate: Tensor) -> Tensor:
    """Features (B, R, D) with the hidden ones zeroed, replaced by noise, or by another region of the batch.

    Noise is normal with the mean and spread of the batch's own features; the paper says "random vector" and no more.
    """
    hidden = torch.where((fate == ZEROED).unsqueeze(-1), 0.0, features)
    if bool((fate >= NOISED).any()):
        present = features[mask]
        noise = torch.randn_like(features) * present.std(0) + present.mean(0)
        hidden = torch.where((fate == NOISED).unsqueeze(-1), noise, hidden)
        other = present[torch.randint(len(present), fate.shape, device=fate.device)]
        hidden = torch.where((fate == SWAPPED).unsqueeze(-1), other, hidden)
    return hidden


def pretraining_losses(model: UnicoderVL, batch: PretrainBatch) -> Losses:
    """The three losses. Word and label heads run on predicted positions only; without any, their loss is zero."""
    features = hide_regions(dequantise(batch.regions), batch.regions.mask, batch.region_fate)
    encoded = model.bert(batch.words, batch.regions, features)
    at_words, at_regions = batch.word_targets != IGNORE, batch.region_targets != IGNORE
    word_logits = model.cls["predictions"](encoded.words[at_words], model.bert.embeddings.word_embeddings.weight)
    label_logits = model.region_labels(encoded.regions[at_regions])
    match_logits = model.match(encoded.cls)
    words, labels, matched = batch.word_targets[at_words], batch.region_targets[at_regions], batch.matched
    return Losses(
        mlm=_mean_cross_entropy(word_logits, words),
        moc=_mean_cross_entropy(label_logits, labels),
        vlm=F.binary_cross_entropy_with_logits(match_logits.float(), matched.float()),
        mlm_accuracy=(word_logits.argmax(-1) == words).float().mean(),
        moc_accuracy=(label_logits.argmax(-1) == labels).float().mean(),
        vlm_accuracy=((match_logits > 0) == matched).float().mean(),
    )


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return total / max(len(targets), 1)
