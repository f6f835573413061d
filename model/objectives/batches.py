"""Batches of pretraining: pairs of image and caption, what is hidden of them, and what must be predicted.

Every choice derives from (seed, epoch, sample), so a batch can be made at any time, on any rank, in any part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from model.data.batch import Regions, Words, pad_words
from model.data.captions import Captions
from model.data.draws import draw_bits, draw_uniforms
from model.data.order import WHOLE, BatchOrder, Index, Order, Part
from model.data.store import FeatureStore
from model.data.token_order import Lengths, TokenOrder
from model.data.tokenizer import TokenTable, Vocabulary
from model.errors import InputError
from model.objectives.config import PretrainConfig, TokenBatches
from model.objectives.hiding import Replacements
from model.objectives.masking import (
    NOISED,
    SEEN,
    SWAPPED,
    ZEROED,
    WordDraws,
    choose_and_mask,
    joint_lengths,
    mask_regions,
    ordinary_pieces,
)
from model.objectives.objective import Draft, Objective, PretrainBatch, chosen_objectives
from model.objectives.pairing import Pair, Pairing
from model.objectives.targets import Targets
from model.objectives.turns import Turns


class PretrainBatches:
    """Makes the batches of one corpus."""

    def __init__(
        self,
        store: FeatureStore,
        captions: Captions,
        tokens: TokenTable,
        vocabulary: Vocabulary,
        max_regions: int,
        config: PretrainConfig,
        marks: int = 0,
        picture_regions: int = 0,
    ) -> None:
        """
        Args:
            marks: tokens that the encoder adds to words and regions; they count where batches are so many tokens.
            picture_regions: regions that the encoder adds; they count in `PretrainConfig.joint_length`.
        """
        self._picture_regions = picture_regions
        if captions.image_rows.min() == captions.image_rows.max():
            raise InputError(f"{store.folder}: matching needs captions of at least two images, so that one is wrong")
        self._store, self._tokens, self._vocabulary = store, tokens, vocabulary
        self._max_regions, self._config, self._objectives = max_regions, config, chosen_objectives(config)
        if any(one.needs_class_scores for one in self._objectives):
            store.check_class_scores()
        self._pieces = ordinary_pieces(vocabulary, config.word_masking)
        rows = captions.image_rows
        shards = store.shard_of[rows]
        self._order: Order = BatchOrder(config.seed, config.batch_size, shards, rows, store=store)
        self._token_order: TokenOrder | None = None
        if (asked := config.token_batches) is not None:
            regions = np.clip(store.region_counts[rows], 1, max_regions)
            lengths = Lengths(np.diff(tokens.starts), regions, marks)
            # With matching="paired" every caption is shown in two pairs.
            count = 2 if config.matching == "paired" else 1
            _check_budget(asked, count, lengths)
            self._order = self._token_order = TokenOrder(
                config.seed, asked.tokens, asked.buckets, shards, rows, lengths, count, store=store
            )
        self._pairing = Pairing(self._order, rows, tokens, config)
        self._turns = Turns(config)

    def __call__(self, step: int, part: Part = WHOLE) -> PretrainBatch:
        """The batch of a step, or one part of it, where this is the only corpus."""
        return self.visit(step, part, self.active(step))

    def active(self, step: int) -> tuple[Objective, ...]:
        """The objectives of a step, where this is the only corpus."""
        return self._turns(step).active

    def visit(self, visit: int, part: Part, active: Sequence[Objective]) -> PretrainBatch:
        """The batch, or a part of it, of the step that reads this corpus after `visit` others did."""
        turns = self._order.step(visit, part)
        if not turns and self._token_order is not None:
            # Every process must reach every parameter, so an empty part has a pair of which nothing is predicted.
            turns, active = [self._token_order.stand_in(visit, part)], ()
        return self._collate(turns, active)

    def slice(self, step: int, first: int, stop: int, only: str | None = None) -> PretrainBatch:
        """The captions first, ..., stop - 1 of the batch of a step, for every objective or for one alone."""
        active = self._objectives if only is None else tuple(one for one in self._objectives if one.name == only)
        return self._collate(self._order.step(step)[first:stop], active)

    @property
    def token_order(self) -> TokenOrder | None:
        """The order of batches of so many tokens; None where batches are so many captions."""
        return self._token_order

    def _collate(self, turns: Sequence[tuple[int, int]], active: Sequence[Objective]) -> PretrainBatch:
        return self.collate(self._pairing.pairs(turns, any(one.needs_wrong_pairs for one in active)), active)

    def collate(self, pairs: Sequence[Pair], active: Sequence[Objective] | None = None) -> PretrainBatch:
        """Read these pairs, choose what is hidden, and pad.

        Args:
            active: the objectives that hide and predict; the others have no targets. None: all.
        """
        config, active = self._config, self._objectives if active is None else active
        turns = np.array([(pair.epoch, pair.sample) for pair in pairs], np.int64)
        matched, opposed = (np.array([getattr(pair, name) for pair in pairs]) for name in ("matched", "opposed"))
        hides_words, hides_regions = (
            np.full((len(pairs), 1), any(one.hides == kind for one in active)) for kind in ("words", "regions")
        )
        if config.hide == "one" and hides_words.all() and hides_regions.all():
            hides_words = draw_uniforms(config.seed, "hide", turns, 1) < 0.5
            hides_regions = ~hides_words

        scored = any(one.needs_class_scores for one in active)
        read = self._store.read([pair.image for pair in pairs], self._max_regions, class_scores=scored)
        words, regions = self._fitted([self._tokens[pair.caption] for pair in pairs], read)
        ids = words.ids.numpy()
        numbers = self._vocabulary.word_numbers(ids) if config.word_masking.whole_words else None
        draws = self._word_draws(turns, ids.shape[1])
        masked, chosen = choose_and_mask(ids, numbers, draws, config.word_masking, self._pieces)
        present = read.mask.numpy()
        choice, treatment = (
            draw_uniforms(config.seed, purpose, turns, present.shape[1]) for purpose in ("region", "region_fate")
        )
        treatments = mask_regions(present & hides_regions, choice, treatment, config.region_masking)
        draft = Draft(
            config=config,
            pairs=pairs,
            ids=ids,
            hidden_words=chosen & hides_words,
            regions=regions,
            treatments=np.where(regions.mask.numpy(), treatments, np.int8(SEEN)),
            learns=(matched | config.mismatched_losses)[:, None],
            matched=matched,
            opposed=opposed,
        )
        return PretrainBatch(
            words=Words(torch.from_numpy(np.where(hides_words, masked, ids)), words.mask),
            regions=regions,
            hidden=self._replacements(pairs, turns, treatments),
            targets={one.name: one.targets(draft) if one in active else Targets.none() for one in self._objectives},
            missing=torch.tensor(int((~opposed).sum())),
        )

    def _fitted(self, rows: Sequence[npt.NDArray[np.int32]], regions: Regions) -> tuple[Words, Regions]:
        """Captions and regions without what the joint length leaves no room for."""
        if self._config.joint_length is None:
            return pad_words(rows, self._vocabulary.pad_id), regions
        present = regions.mask.numpy()
        pieces, kept = joint_lengths(
            np.array([len(row) for row in rows]),
            present.sum(1) + self._picture_regions,
            self._config.joint_length,
        )
        rows = [
            np.concatenate([row[: count - 1], row[-1:]]) if count < len(row) else row
            for row, count in zip(rows, pieces.tolist(), strict=True)
        ]
        places = np.arange(present.shape[1]) < (kept - self._picture_regions)[:, None]
        fitted = replace(regions, mask=torch.from_numpy(present & places), counted=regions.mask)
        return pad_words(rows, self._vocabulary.pad_id), fitted

    def _word_draws(self, turns: Index, width: int) -> WordDraws:
        seed = self._config.seed
        return WordDraws(
            choice=draw_uniforms(seed, "word", turns, width),
            treatment=draw_uniforms(seed, "word_fate", turns, width),
            piece=draw_uniforms(seed, "word_piece", turns, width),
        )

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


def _check_budget(asked: TokenBatches, rows: int, lengths: Lengths) -> None:
    """Raise InputError unless the longest sample fits a bucket, and what one device takes at once."""
    longest = rows * (int((lengths.words + lengths.regions).max()) + lengths.marks)
    for name, budget in (("tokens", asked.tokens), ("device_tokens", asked.device_tokens)):
        if budget is not None and budget < longest:
            raise InputError(
                f"pretrain.token_batches.{name}={budget}, but the longest caption with its image takes {longest} "
                f"tokens; set it to that at least"
            )
