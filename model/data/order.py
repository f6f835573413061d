"""The order of samples: a pure function of (seed, epoch, shards), so its whole state is a step number.

The rule, so that anyone can reproduce it. N samples lie in shards 0 to S - 1; `uniform(n, k)` is the first n numbers
of `masking.generator(seed, "order", epoch, k).random`, and argsort is stable.

1. The epoch's shards are argsort(uniform(S, 0)). Each run of 16 of them is a window; the last one may be shorter.
2. Window w holds the samples of its shards. Listed by ascending number they are m; the epoch shows them in the order
   m[argsort(uniform(len(m), w + 1))], window after window.
3. Place p of a run is position p mod N of epoch p // N. Step s takes places [s B, (s + 1) B), and part i of c the i-th
   of c equal slices of them. A batch may begin in one epoch and end in the next, so no sample is ever left out.
4. Where shards are bad and to be skipped, let g be the window's order without their samples, n of them. The k-th place
   of the window (from 0) that has lost its sample shows g[(k + n // 2) mod n] instead. So batches keep their size, and
   what they hold depends on which shards are bad, not on rank, part or step. A window without any good sample stops
   the run.
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
WINDOW_SHARDS = 16
"""16 shards shuffle better than a buffer of 5,000 samples (6.5% of pairs from one shard against 9.7%), and bound what
must be at hand at a time."""
_WINDOWS_KEPT = 8


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
class _Epoch:
    """The order of an epoch: shards (S,), their places (S,), and window starts (W + 1,)."""

    shards: Index
    place: Index
    starts: Index


class BatchOrder:
    """The samples of step s, and the images in the window of a sample. Safe to share among threads."""

    def __init__(
        self,
        seed: int,
        batch_size: int,
        shards: Index,
        images: Index,
        window_shards: int = WINDOW_SHARDS,
        store: ShardStore | None = None,
    ) -> None:
        """
        Args:
            batch_size: B, over all parts.
            shards: (N,) the shard of each sample.
            images: (N,) the image of each sample, a row of the feature store; captions of one image share it.
            store: the feature store. It is told which shards come next, and asked which are bad. None: all are good.
        """
        self._seed, self._batch_size, self._window_shards = seed, batch_size, window_shards
        self._shards, self._images, self._store = shards, images, store
        self._counts = np.bincount(shards)
        self._firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._counts)])
        self._by_shard = np.argsort(shards, kind="stable")
        self._expected: list[int] = []
        self._counted_step, self._counted = -1, dict[Part, int]()
        self._lock = threading.Lock()
        # Each object has its own caches, unlike a decorated method.
        self._epoch = lru_cache(maxsize=4)(self._plan_epoch)
        self._window = lru_cache(maxsize=_WINDOWS_KEPT)(self._order_window)
        self._window_images = lru_cache(maxsize=_WINDOWS_KEPT)(self._collect_images)

    def step(self, step: int, part: Part = WHOLE) -> list[tuple[int, int]]:
        """(epoch, sample) of every place of this part of the batch of this step.

        Raises:
            ShardError: the shards of a window are all bad.
        """
        self._tell(step)
        size = self._batch_size // part.count
        first = step * self._batch_size + part.index * size
        found = [self._at(place) for place in range(first, first + size)]
        if self._store is not None:
            self._count(step, part, sum(skipped for _, _, skipped in found))
        return [(epoch, sample) for epoch, sample, _ in found]

    def whole(self, step: int) -> list[tuple[int, int]]:
        """(epoch, sample) of every place of a step, on all processes.

        Skipped samples count where they are trained on, in `step`.

        Raises:
            ShardError: as `step`.
        """
        return [self._at(place)[:2] for place in range(step * self._batch_size, (step + 1) * self._batch_size)]

    def window(self, epoch: int, sample: int) -> Index:
        """Distinct images of the good shards of the sample's window in that epoch, ascending. Not to be written into.

        If that is one image only, those of the windows after it (before it, at the epoch's end) are added until there
        are two, so that a wrong image can be drawn wherever the split has two.
        """
        window = int(self._epoch(epoch).place[self._shards[sample]]) // self._window_shards
        return self._window_images(epoch, window, self._lost())

    def _count(self, step: int, part: Part, skipped: int) -> None:
        """Add to the store's count of skipped samples; a part made again because a shard was lost counts once."""
        assert self._store is not None
        with self._lock:
            if step != self._counted_step:
                self._counted_step, self._counted = step, {}
            self._store.skipped_samples += skipped - self._counted.get(part, 0)
            self._counted[part] = skipped

    def _at(self, place: int) -> tuple[int, int, bool]:
        epoch, window, position = self._locate(place)
        samples, skipped = self._window(epoch, window, self._lost())
        return epoch, int(samples[position]), bool(skipped[position])

    def _locate(self, place: int) -> tuple[int, int, int]:
        """Epoch, window and position in the window of a place of the run."""
        epoch, position = divmod(place, len(self._shards))
        starts = self._epoch(epoch).starts
        window = int(np.searchsorted(starts, position, side="right")) - 1
        return epoch, window, position - int(starts[window])

    def _lost(self) -> int:
        return 0 if self._store is None else self._store.lost

    def _tell(self, step: int) -> None:
        """Tell the store the shards of this step's and the next windows."""
        if self._store is None:
            return
        first, last = step * self._batch_size, (step + 1) * self._batch_size - 1
        epoch, window, position = self._locate(last)
        size = int(np.diff(self._epoch(epoch).starts)[window])
        shards: list[int] = []
        place = first
        # The last turn is at the first place of the window after this step's.
        while place <= last - position + size:
            epoch, window, position_there = self._locate(place)
            shards += self._window_shards_of(epoch, window).tolist()
            place += int(np.diff(self._epoch(epoch).starts)[window]) - position_there
        with self._lock:
            if shards != self._expected:
                self._expected = shards
                self._store.expect(list(dict.fromkeys(shards)))

    def _plan_epoch(self, epoch: int) -> _Epoch:
        shards = np.argsort(generator(self._seed, "order", epoch).random(len(self._counts)), kind="stable")
        firsts = np.arange(0, len(shards), self._window_shards)
        sizes = np.add.reduceat(self._counts[shards], firsts)
        return _Epoch(shards, np.argsort(shards), np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))

    def _window_shards_of(self, epoch: int, window: int) -> Index:
        """The shards of a window that have samples, in the order of the epoch."""
        first = window * self._window_shards
        shards = self._epoch(epoch).shards[first : first + self._window_shards]
        return shards[self._counts[shards] > 0]

    def _members(self, epoch: int, window: int) -> tuple[Index, npt.NDArray[np.bool_]]:
        """Samples of a window, ascending, and which of them lie in bad shards."""
        shards = self._window_shards_of(epoch, window)
        if len(shards) == 0:
            return self._by_shard[:0], np.zeros(0, np.bool_)
        members = np.sort(np.concatenate([self._by_shard[self._firsts[s] : self._firsts[s + 1]] for s in shards]))
        store = self._store
        bad = [] if store is None else [shard for shard in shards.tolist() if not store.sound(shard)]
        return members, np.isin(self._shards[members], bad)

    def _order_window(self, epoch: int, window: int, lost: int) -> tuple[Index, npt.NDArray[np.bool_]]:
        members, bad = self._members(epoch, window)
        draws = generator(self._seed, "order", epoch, window + 1).random(len(members))
        order = np.argsort(draws, kind="stable")
        samples, skipped = members[order], bad[order]
        if skipped.any():
            good, places = samples[~skipped], np.flatnonzero(skipped)
            if len(good) == 0:
                raise ShardError(f"epoch {epoch}, window {window}: none of its shards can be read; extract them again")
            samples[places] = good[(np.arange(len(places)) + len(good) // 2) % len(good)]
        return samples, skipped

    def _collect_images(self, epoch: int, window: int, lost: int) -> Index:
        count = len(self._epoch(epoch).starts) - 1
        images = self._images[:0]
        for other in [*range(window, count), *reversed(range(window))]:
            members, bad = self._members(epoch, other)
            images = np.union1d(images, self._images[members[~bad]])
            if len(images) > 1:
                break
        images.flags.writeable = False
        return images
