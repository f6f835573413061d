"""Batches of pretraining: pairs of image and caption, what is hidden of them, and what must be predicted.

Every choice derives from (seed, epoch, sample), so a batch can be made at any time, on any rank, in any part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.batch import Movable, Regions, Words, pad_words
from model.data.captions import Captions
from model.data.draws import draw_bits, draw_uniforms
from model.data.order import WHOLE, BatchOrder, Index, Part
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable, Vocabulary
from model.errors import InputError
from model.objectives.config import PretrainConfig
from model.objectives.masking import NOISED, SEEN, SWAPPED, ZEROED, Pieces, WordDraws, mask_regions, mask_words
from model.objectives.pairing import Pair, Pairing
from model.objectives.targets import Targets

_NOWHERE: Index = np.zeros(0, np.int64)
_NO_TARGETS = Targets.of(_NOWHERE, _NOWHERE, _NOWHERE)


@dataclass(frozen=True)
class Replacements(Movable):
    """What stands in for hidden features: pairs and places as in `Targets`.

    zeroed (B, R) bool. The noised ones get noise made from `noise_seeds` (N,) i64, the swapped ones the features of a
    region of another image: swap_features (M, D) and swap_scales (M,), as the shard holds them.
    """

    zeroed: Tensor
    noise_pairs: Tensor
    noise_places: Tensor
    noise_seeds: Tensor
    swap_pairs: Tensor
    swap_places: Tensor
    swap_features: Tensor
    swap_scales: Tensor


@dataclass(frozen=True)
class PretrainBatch(Movable):
    """B pairs. `matching` holds the pairs whose match is to be predicted (place 0), label 1 for a right one.

    missing: () i64, captions for which no wrong pair was found.
    """

    words: Words
    regions: Regions
    hidden: Replacements
    word_targets: Targets
    region_targets: Targets
    matching: Targets
    missing: Tensor

    @property
    def counts(self) -> Tensor:
        """(3,) f32: how many word, label and matching targets there are."""
        return torch.tensor([len(self.word_targets), len(self.region_targets), len(self.matching)], dtype=torch.float32)


class PretrainBatches:
    """Step number to batch."""

    def __init__(
        self,
        store: FeatureStore,
        captions: Captions,
        tokens: TokenTable,
        vocabulary: Vocabulary,
        max_regions: int,
        config: PretrainConfig,
    ) -> None:
        if captions.image_rows.min() == captions.image_rows.max():
            raise InputError(f"{store.folder}: matching needs captions of at least two images, so that one is wrong")
        self._store, self._tokens, self._vocabulary = store, tokens, vocabulary
        self._max_regions, self._config = max_regions, config
        self._pieces = Pieces.of(vocabulary.size, vocabulary.mask_id, vocabulary.special_ids)
        rows = captions.image_rows
        self._order = BatchOrder(config.seed, config.batch_size, store.shard_of[rows], rows, store=store)
        self._pairing = Pairing(self._order, rows, tokens, config)

    def __call__(self, step: int, part: Part = WHOLE) -> PretrainBatch:
        """The batch of a step, or one part of it."""
        return self.collate(self._pairing.pairs(self._order.step(step, part)))

    def slice(self, step: int, first: int, stop: int) -> PretrainBatch:
        """The captions first, ..., stop - 1 of the batch of a step."""
        return self.collate(self._pairing.pairs(self._order.step(step)[first:stop]))

    def collate(self, pairs: Sequence[Pair]) -> PretrainBatch:
        """Read these pairs, choose what is hidden of them, and pad."""
        config = self._config
        turns = np.array([(pair.epoch, pair.sample) for pair in pairs], np.int64)
        matched, opposed = (np.array([getattr(pair, name) for pair in pairs]) for name in ("matched", "opposed"))
        learns = (matched | config.mismatched_losses)[:, None]
        hides_words = hides_regions = np.ones((len(pairs), 1), np.bool_)
        if config.hide == "one":
            hides_words = draw_uniforms(config.seed, "hide", turns, 1) < 0.5
            hides_regions = ~hides_words

        words = pad_words([self._tokens[pair.caption] for pair in pairs], self._vocabulary.pad_id)
        ids = words.ids.numpy()
        masked, chosen = mask_words(ids, self._word_draws(turns, ids.shape[1]), config.word_masking, self._pieces)
        word_pairs, word_places = np.nonzero(chosen & hides_words & learns)

        regions = self._store.read([pair.image for pair in pairs], self._max_regions)
        present = regions.mask.numpy()
        choice, treatment = (
            draw_uniforms(config.seed, purpose, turns, present.shape[1]) for purpose in ("region", "region_fate")
        )
        treatments = mask_regions(present & hides_regions, choice, treatment, config.region_masking)
        return PretrainBatch(
            words=Words(torch.from_numpy(np.where(hides_words, masked, ids)), words.mask),
            regions=regions,
            hidden=self._replacements(pairs, turns, treatments),
            word_targets=Targets.of(word_pairs, word_places, ids[word_pairs, word_places]),
            region_targets=self._region_targets(regions, (treatments != SEEN) & learns),
            matching=_NO_TARGETS
            if config.matching == "none"
            else Targets.of(np.flatnonzero(opposed), np.zeros(opposed.sum()), matched[opposed]),
            missing=torch.tensor(int((~opposed).sum())),
        )

    def _word_draws(self, turns: Index, width: int) -> WordDraws:
        seed = self._config.seed
        return WordDraws(
            choice=draw_uniforms(seed, "word", turns, width),
            treatment=draw_uniforms(seed, "word_fate", turns, width),
            piece=draw_uniforms(seed, "word_piece", turns, width),
        )

    def _region_targets(self, regions: Regions, hidden: npt.NDArray[np.bool_]) -> Targets:
        """The detector's label of each hidden region (section 3.2.2), but for regions that it takes for background."""
        known = (regions.scores > regions.background) & (regions.scores >= self._config.min_label_score)
        pairs, places = np.nonzero(hidden & known.numpy())
        return Targets.of(pairs, places, regions.labels.numpy()[pairs, places])

    def _replacements(self, pairs: Sequence[Pair], turns: Index, treatments: npt.NDArray[np.int8]) -> Replacements:
        """What hidden regions become. All swapped ones of a pair take features of one other image of its window.

        An image without regions gives zeros: its padding.
        """
        seed, width = self._config.seed, treatments.shape[1]
        noise_pairs, noise_places = np.nonzero(treatments == NOISED)
        # A number below 2^63 for each, so that it fits torch's signed integers.
        noise_seeds = draw_bits(seed, "noise", turns, width)[noise_pairs, noise_places] >> np.uint64(1)

        swap_pairs, swap_places = np.nonzero(treatments == SWAPPED)
        takers, numbers = np.unique(swap_pairs, return_inverse=True)
        draws = draw_uniforms(seed, "donor", turns[takers], 1)[:, 0].tolist()
        images = [self._pairing.another_image(pairs[at], draw) for at, draw in zip(takers, draws, strict=True)]
        # Without any, a read of no image: tensors of the right width and type.
        donors = self._store.read(images, self._max_regions)
        choices = draw_uniforms(seed, "taken", turns, width)[swap_pairs, swap_places]
        taken = (
            torch.from_numpy(numbers),
            torch.from_numpy((choices * donors.mask.sum(1).numpy()[numbers]).astype(np.int64)),
        )
        return Replacements(
            zeroed=torch.from_numpy(treatments == ZEROED),
            noise_pairs=torch.from_numpy(noise_pairs),
            noise_places=torch.from_numpy(noise_places),
            noise_seeds=torch.from_numpy(noise_seeds.astype(np.int64)),
            swap_pairs=torch.from_numpy(swap_pairs),
            swap_places=torch.from_numpy(swap_places),
            swap_features=donors.features[taken],
            swap_scales=donors.scales[taken],
        )
