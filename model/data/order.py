"""The order of samples: a pure function of (seed, epoch, shards), so its whole state is a step number.

The rule, so that anyone can reproduce it. N samples lie in shards 0 to S - 1; `uniform(n, k)` is the first n numbers
of `streams.generator(seed, "order", epoch, k).random`, and argsort is stable.

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

from functools import lru_cache
from typing import Protocol

import numpy as np

from model.data.streams import generator
from model.data.windows import WHOLE, WINDOW_SHARDS, WINDOWS_KEPT, Flags, Index, Part, ShardStore, Windows

__all__ = ["WHOLE", "WINDOW_SHARDS", "BatchOrder", "Index", "Order", "Part", "shuffle"]


class Order(Protocol):
    """Which samples a step takes, and which images lie in a sample's window."""

    def step(self, step: int, part: Part = WHOLE) -> list[tuple[int, int]]:
        """(epoch, sample) of every place of this part of the batch of this step."""

    def window(self, epoch: int, sample: int) -> Index:
        """Distinct images of the sample's window in that epoch, ascending. Not to be written into."""


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
        self._batch_size, self._windows = batch_size, Windows(seed, shards, images, window_shards, store)
        self._window = lru_cache(maxsize=WINDOWS_KEPT)(self._order_window)

    def step(self, step: int, part: Part = WHOLE) -> list[tuple[int, int]]:
        """(epoch, sample) of every place of this part of the batch of this step.

        Raises:
            ShardError: the shards of a window are all bad.
        """
        self._tell(step)
        size = self._batch_size // part.count
        first = step * self._batch_size + part.index * size
        found = [self._at(place) for place in range(first, first + size)]
        self._windows.count_skipped(step, part, sum(skipped for _, _, skipped in found))
        return [(epoch, sample) for epoch, sample, _ in found]

    def whole(self, step: int) -> list[tuple[int, int]]:
        """(epoch, sample) of every place of a step, on all processes.

        Skipped samples count where they are trained on, in `step`.

        Raises:
            ShardError: as `step`.
        """
        return [self._at(place)[:2] for place in range(step * self._batch_size, (step + 1) * self._batch_size)]

    def window(self, epoch: int, sample: int) -> Index:
        """Images of the sample's window, see `Windows.images`."""
        return self._windows.images(epoch, sample)

    def _at(self, place: int) -> tuple[int, int, bool]:
        epoch, window, position = self._locate(place)
        samples, skipped = self._window(epoch, window, self._windows.lost)
        return epoch, int(samples[position]), bool(skipped[position])

    def _locate(self, place: int) -> tuple[int, int, int]:
        """Epoch, window and position in the window of a place of the run."""
        epoch, position = divmod(place, len(self._windows))
        starts = self._windows.epoch(epoch).starts
        window = int(np.searchsorted(starts, position, side="right")) - 1
        return epoch, window, position - int(starts[window])

    def _tell(self, step: int) -> None:
        """Tell the store the shards of this step's and the next windows."""
        first, last = (self._locate(place) for place in (step * self._batch_size, (step + 1) * self._batch_size - 1))
        self._windows.expect(first[:2], last[:2])

    def _order_window(self, epoch: int, window: int, lost: int) -> tuple[Index, Flags]:
        samples = shuffle(self._windows, epoch, window)
        skipped = self._windows.bad(epoch, window, samples)
        if skipped.any():
            good, places = samples[~skipped], np.flatnonzero(skipped)
            samples[places] = good[(np.arange(len(places)) + len(good) // 2) % len(good)]
        return samples, skipped


def shuffle(windows: Windows, epoch: int, window: int) -> Index:
    """The samples of a window in the order in which the epoch shows them."""
    members = windows.members(epoch, window)
    draws = generator(windows.seed, "order", epoch, window + 1).random(len(members))
    return members[np.argsort(draws, kind="stable")]
