"""Windows of shards: what training reads at a time, in an order that is a function of (seed, epoch, shards).

`uniform(n, k)` is the first n numbers of `streams.generator(seed, "order", epoch, k).random`, and argsort is stable.
The epoch's shards, numbered 0 to S - 1, are argsort(uniform(S, 0)); each run of 16 of them is a window, and the last
one may be shorter.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feature_extraction.samples.tars import ShardError
from model.data.streams import generator

Index = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
WINDOW_SHARDS = 16
"""16 shards shuffle better than a buffer of 5,000 samples (6.5% of pairs from one shard against 9.7%), and bound what
must be at hand at a time."""
WINDOWS_KEPT = 8


@dataclass(frozen=True)
class Part:
    """The contiguous slice `index` of `count` equal slices of a global batch."""

    index: int = 0
    count: int = 1


WHOLE = Part()


class ShardStore(Protocol):
    """The order's view of the feature store, which knows bad shards and fetches expected ones."""

    skipped_samples: int

    @property
    def lost(self) -> int:
        """Number of shards found bad so far; when it grows, windows are made anew."""

    def sound(self, shard: int) -> bool:
        """Whether a shard can be used."""

    def expect(self, shards: Sequence[int]) -> None:
        """Expect these shards to be read next, and no others for a while."""


@dataclass(frozen=True)
class Epoch:
    """The windows of an epoch: its shards (S,), their places (S,), and the first sample's place in each (W + 1,)."""

    shards: Index
    place: Index
    starts: Index

    @property
    def count(self) -> int:
        """W, windows."""
        return len(self.starts) - 1


class Windows:
    """The windows of every epoch, their samples and images, and which of them lie in bad shards."""

    def __init__(
        self, seed: int, shards: Index, images: Index, window_shards: int, store: ShardStore | None = None
    ) -> None:
        """
        Args:
            shards: (N,) the shard of each sample.
            images: (N,) the image of each sample, a row of the feature store; captions of one image share it.
            store: the feature store. It is told which shards come next, and asked which are bad. None: all are good.
        """
        self.seed, self._shards, self._images = seed, shards, images
        self._window_shards, self._store = window_shards, store
        self._counts = np.bincount(shards)
        self._firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._counts)])
        self._by_shard = np.argsort(shards, kind="stable")
        self._expected: list[int] = []
        self._counted_step, self._counted = -1, dict[Part, int]()
        self._lock = threading.Lock()
        # Each object has its own caches, unlike a decorated method.
        self.epoch = lru_cache(maxsize=4)(self._plan_epoch)
        self._window_images = lru_cache(maxsize=WINDOWS_KEPT)(self._collect_images)

    def __len__(self) -> int:
        """N, samples."""
        return len(self._shards)

    @property
    def lost(self) -> int:
        """Number of shards found bad so far."""
        return 0 if self._store is None else self._store.lost

    def members(self, epoch: int, window: int) -> Index:
        """Samples of a window, ascending."""
        shards = self._shards_of(epoch, window)
        if len(shards) == 0:
            return self._by_shard[:0]
        return np.sort(np.concatenate([self._by_shard[self._firsts[s] : self._firsts[s + 1]] for s in shards]))

    def bad(self, epoch: int, window: int, samples: Index) -> Flags:
        """Which of these samples of a window lie in bad shards.

        Raises:
            ShardError: all do.
        """
        flags = self._bad(epoch, window, samples)
        if len(flags) and flags.all():
            raise ShardError(f"epoch {epoch}, window {window}: none of its shards can be read; extract them again")
        return flags

    def images(self, epoch: int, sample: int) -> Index:
        """Distinct images of the good shards of the sample's window in that epoch, ascending. Not to be written into.

        If that is one image only, those of the windows after it (before it, at the epoch's end) are added until there
        are two, so that a wrong image can be drawn wherever the split has two.
        """
        window = int(self.epoch(epoch).place[self._shards[sample]]) // self._window_shards
        return self._window_images(epoch, window, self.lost)

    def expect(self, first: tuple[int, int], last: tuple[int, int]) -> None:
        """Tell the store the shards of the windows from `first` to `last` and of the next one; each (epoch, window)."""
        if self._store is None:
            return
        shards, here, end = list[int](), first, self._after(last)
        while True:
            shards += self._shards_of(*here).tolist()
            if here == end:
                break
            here = self._after(here)
        with self._lock:
            if shards != self._expected:
                self._expected = shards
                self._store.expect(list(dict.fromkeys(shards)))

    def count_skipped(self, step: int, part: Part, skipped: int) -> None:
        """Add to the store's count of skipped samples; a part made again because a shard was lost counts once."""
        if self._store is None:
            return
        with self._lock:
            if step != self._counted_step:
                self._counted_step, self._counted = step, {}
            self._store.skipped_samples += skipped - self._counted.get(part, 0)
            self._counted[part] = skipped

    def _after(self, window: tuple[int, int]) -> tuple[int, int]:
        """The next window that has samples."""
        epoch, number = window
        while True:
            epoch, number = (epoch, number + 1) if number + 1 < self.epoch(epoch).count else (epoch + 1, 0)
            starts = self.epoch(epoch).starts
            if starts[number + 1] > starts[number]:
                return epoch, number

    def _plan_epoch(self, epoch: int) -> Epoch:
        shards = np.argsort(generator(self.seed, "order", epoch).random(len(self._counts)), kind="stable")
        firsts = np.arange(0, len(shards), self._window_shards)
        sizes = np.add.reduceat(self._counts[shards], firsts)
        return Epoch(shards, np.argsort(shards), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))

    def _shards_of(self, epoch: int, window: int) -> Index:
        """The shards of a window that have samples, in the order of the epoch."""
        first = window * self._window_shards
        shards = self.epoch(epoch).shards[first : first + self._window_shards]
        return shards[self._counts[shards] > 0]

    def _bad(self, epoch: int, window: int, samples: Index) -> Flags:
        store = self._store
        if store is None:
            return np.zeros(len(samples), np.bool_)
        bad = [shard for shard in self._shards_of(epoch, window).tolist() if not store.sound(shard)]
        return np.isin(self._shards[samples], bad)

    def _collect_images(self, epoch: int, window: int, lost: int) -> Index:
        count = self.epoch(epoch).count
        images = self._images[:0]
        for other in [*range(window, count), *reversed(range(window))]:
            members = self.members(epoch, other)
            images = np.union1d(images, self._images[members[~self._bad(epoch, other, members)]])
            if len(images) > 1:
                break
        images.flags.writeable = False
        return images
