"""Batches of retrieval finetuning: matched pairs, and wrong captions and wrong images for each.

Sampled, a few from the pair's window of shards (Unicoder-VL, arXiv:1908.06066, section 3.3, takes three a side); or
all that the step's batch holds, for the hardest of them to be found (hardest-in-batch, VSE++, arXiv:1707.05612).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.batch import Movable, Regions, Words, pad_words
from model.data.captions import Captions
from model.data.matches import NEGATIVE_TRIES, Matches
from model.data.order import WHOLE, BatchOrder, Index, Part
from model.data.store import FeatureStore
from model.data.streams import generator
from model.data.tokenizer import TokenTable, Vocabulary
from model.downstream.retrieval.config import FinetuneConfig
from model.errors import InputError


@dataclass(frozen=True)
class RetrievalBatch(Movable):
    """B matched pairs with up to N wrong captions and N wrong images each. Every distinct image is there once.

    Shapes: image_slots and word_slots (B, 1 + 2 N) i64, positions in `regions` and `words`: column 0 is the matched
    pair, then N wrong captions, then N wrong images. A place for which there is no wrong one repeats the matched pair.
    missing: () i64, how many of the places asked for are such: of the 2 N sampled of a pair, or of its two sides where
    the batch is searched for the hardest.
    """

    words: Words
    regions: Regions
    image_slots: Tensor
    word_slots: Tensor
    missing: Tensor

    @property
    def counts(self) -> Tensor:
        """The number of pairs (1,) f32, each with one hinge a side."""
        return torch.tensor([len(self.image_slots)], dtype=torch.float32)

    @property
    def is_wrong(self) -> Tensor:
        """(B, 2 N) bool: False where the matched pair takes the place of a wrong one."""
        return differs_from_first(self.image_slots) | differs_from_first(self.word_slots)


def differs_from_first(slots: Tensor) -> Tensor:
    """Which of slots (B, 1 + K) differ from the first one: (B, K) bool."""
    return slots[:, 1:] != slots[:, :1]


@dataclass(frozen=True)
class _WholeBatch:
    """All B pairs of a step, on all processes, and the U images and C captions that occur in them, each read once.

    samples (B,) are captions in the order of the batch; images (U,) and captions (C,) ascend; true (U, C) says which
    caption is true of which image.
    """

    samples: Index
    images: Index
    captions: Index
    true: npt.NDArray[np.bool_]
    regions: Regions
    words: Words


class RetrievalBatches:
    """Makes the batch of a step. A negative is never a true match (`Matches`)."""

    def __init__(
        self,
        store: FeatureStore,
        captions: Captions,
        tokens: TokenTable,
        vocabulary: Vocabulary,
        max_regions: int,
        config: FinetuneConfig,
    ) -> None:
        rows = captions.image_rows
        if len(np.unique(rows)) < 2:
            raise InputError("the hinge loss needs captions of at least two images, so that there is a wrong one")
        self._store, self._image_rows, self._tokens = store, rows, tokens
        self._vocabulary, self._max_regions, self._config = vocabulary, max_regions, config
        self._matches = Matches(rows, tokens)
        self._order = BatchOrder(config.seed, config.batch_size, store.shard_of[rows], rows, store=store)
        # The parts of a step are made one after the other: what they share is read once.
        self._whole_batch = lru_cache(maxsize=1)(self._read_whole_batch)

    def __call__(self, step: int, part: Part = WHOLE) -> RetrievalBatch:
        """The batch of a step, or one part of it."""
        turns = self._order.step(step, part)
        return self._against_batch(step, part) if self._config.searches_batch(step) else self._against_window(turns)

    def _against_window(self, turns: Sequence[tuple[int, int]]) -> RetrievalBatch:
        """Each pair with negatives sampled from its window of shards."""
        pairs = [self._sample(epoch, sample) for epoch, sample in turns]
        images, image_slots = np.unique([image for image, _ in pairs], return_inverse=True)
        texts, word_slots = np.unique([text for _, text in pairs], return_inverse=True)
        shape = (len(pairs), 1 + 2 * self._config.negatives)
        slots = [torch.from_numpy(side.reshape(shape)) for side in (image_slots, word_slots)]
        return RetrievalBatch(
            words=self._words(texts),
            regions=self._store.read(images, self._max_regions),
            image_slots=slots[0],
            word_slots=slots[1],
            missing=(~(differs_from_first(slots[0]) | differs_from_first(slots[1]))).sum(),
        )

    def _sample(self, epoch: int, sample: int) -> tuple[list[int], list[int]]:
        """Images and captions (1 + 2 N) of a pair and its negatives, from (seed, epoch, sample) alone.

        A negative that would make a true pair is drawn again, 16 times at most.
        """
        count, matches = self._config.negatives, self._matches
        rng = generator(self._config.seed, "negatives", epoch, sample)
        own = int(self._image_rows[sample])
        others = self._order.window(epoch, sample)
        others = others[others != own]

        def draw_image() -> int:
            return int(others[rng.integers(len(others))])

        def caption_of(image: int) -> int:
            return int(rng.choice(matches.captions_of(image)))

        wrong_images = others[rng.integers(len(others), size=count)]
        first_captions = [caption_of(image) for image in wrong_images.tolist()]
        first_images = others[rng.integers(len(others), size=count)].tolist()
        captions = [
            _first_wrong(first, lambda: caption_of(draw_image()), lambda caption: matches.is_true(caption, own), sample)
            for first in first_captions
        ]
        images = [
            _first_wrong(first, draw_image, lambda image: matches.is_true(sample, image), own) for first in first_images
        ]
        return [own] * (1 + count) + images, [sample, *captions] + [sample] * count

    def _against_batch(self, step: int, part: Part) -> RetrievalBatch:
        """The pairs of this part, each with all captions and images of the step's whole batch as candidates.

        N is the number of distinct captions. So the candidates do not depend on how the batch is split.
        """
        whole = self._whole_batch(step)
        size = len(whole.samples) // part.count
        samples = whole.samples[part.index * size : (part.index + 1) * size]
        image = np.searchsorted(whole.images, self._image_rows[samples])[:, None]
        caption = np.searchsorted(whole.captions, samples)[:, None]
        images, captions = whole.true.shape
        image_slots, word_slots = np.tile(image, 1 + 2 * captions), np.tile(caption, 1 + 2 * captions)
        word_slots[:, 1 : 1 + captions] = np.where(whole.true[image[:, 0]], caption, np.arange(captions))
        # No more images than captions, so these are places enough.
        first = 1 + captions
        image_slots[:, first : first + images] = np.where(whole.true[:, caption[:, 0]].T, image, np.arange(images))
        sides = whole.true[image[:, 0]].all(1), whole.true[:, caption[:, 0]].all(0)
        return RetrievalBatch(
            words=whole.words,
            regions=whole.regions,
            image_slots=torch.from_numpy(image_slots),
            word_slots=torch.from_numpy(word_slots),
            missing=torch.tensor(int(np.sum(sides))),
        )

    def _read_whole_batch(self, step: int) -> _WholeBatch:
        samples = np.array([sample for _, sample in self._order.whole(step)], np.int64)
        captions = np.unique(samples)
        images = np.unique(self._image_rows[samples])
        return _WholeBatch(
            samples=samples,
            images=images,
            captions=captions,
            true=self._matches.table(images.tolist(), captions.tolist()),
            regions=self._store.read(images, self._max_regions),
            words=self._words(captions),
        )

    def _words(self, captions: Index) -> Words:
        return pad_words([self._tokens[caption] for caption in captions.tolist()], self._vocabulary.pad_id)


def _first_wrong(first: int, draw: Callable[[], int], is_true: Callable[[int], bool], matched: int) -> int:
    """The first of up to 16 draws that is no match; the matched one where all of them match."""
    candidate = first
    for _ in range(NEGATIVE_TRIES - 1):
        if not is_true(candidate):
            return candidate
        candidate = draw()
    return matched if is_true(candidate) else candidate
