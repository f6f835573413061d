"""Batches of equal cost instead of equal count: buckets of samples of like length, filled up to a number of tokens.

A bucket is one rectangle: its samples times the longest caption plus the longest region list among them. It holds as
many samples as fit the budget. The rule, for a window's samples in the order in which the epoch shows them
(`order.shuffle`); all sorts are stable:

1. They are sorted by regions and cut into strips of nearly equal count, twice the square root of the number of buckets
   that they would fill without padding. Each strip is sorted by words, every second one longest first.
2. From the front of this line buckets take samples while they fit. A window's last bucket may stay short.
3. The window shows its buckets in the order argsort(uniform(number of buckets, w + 1)) of the generator of purpose
   "buckets".

Step s takes buckets [s b, (s + 1) b) of the run, epoch after epoch, so every sample is shown once an epoch and the step
number is all the state: a run that resumes plans the epochs before again, at 0.3 s for a million samples each. Where a
sample's shard is bad and skipped, the next good sample of the line takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from model.data.order import WHOLE, WINDOW_SHARDS, Index, Part, shuffle
from model.data.streams import generator
from model.data.windows import WINDOWS_KEPT, Flags, ShardStore, Windows


class Lengths(NamedTuple):
    """Of N samples, in tokens: words (N,) with their marks, regions (N,), and what every pair has beside them."""

    words: Index
    regions: Index
    marks: int = 0


@dataclass(frozen=True)
class _Plan:
    """An epoch: its N samples window by window, each window a line of buckets; and the buckets as they are shown.

    line (N,); firsts and counts (E,) of each bucket's samples in the line; windows (E,).
    """

    line: Index
    firsts: Index
    counts: Index
    windows: Index


class TokenOrder:
    """The samples of step s, as buckets, and the images in the window of a sample. Safe to share among threads."""

    def __init__(
        self,
        seed: int,
        tokens: int,
        buckets: int,
        shards: Index,
        images: Index,
        lengths: Lengths,
        rows: int = 1,
        window_shards: int = WINDOW_SHARDS,
        store: ShardStore | None = None,
    ) -> None:
        """
        Args:
            tokens: budget of a bucket; at least what the longest sample takes.
            buckets: of a step, over all parts.
            shards, images, store: as of `BatchOrder`.
            rows: pairs that each sample becomes.
        """
        self._tokens, self._buckets, self._lengths, self._rows = tokens, buckets, lengths, rows
        self._windows = Windows(seed, shards, images, window_shards, store)
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)
        self._line = lru_cache(maxsize=WINDOWS_KEPT)(self._sound_line)
        self._ends: list[int] = []
        """Buckets up to the end of each epoch that was planned."""

    def step(self, step: int, part: Part = WHOLE) -> list[tuple[int, int]]:
        """(epoch, sample) of every place of this part of the batch of this step, bucket after bucket.

        A part is one bucket or several, or one of as equal slices of a bucket as possible. A bucket with fewer samples
        than slices gives empty ones.

        Raises:
            ShardError: the shards of a window are all bad.
        """
        first, last = step * self._buckets, (step + 1) * self._buckets
        self._windows.expect(self._locate(first)[:2], self._locate(last - 1)[:2])
        slices = max(1, part.count // self._buckets)
        size = max(1, self._buckets // part.count)
        numbers = range(first, last)[part.index // slices * size :][:size]
        found, skipped = [], 0
        for number in numbers:
            epoch, window, index = self._locate(number)
            samples, replaced = self._bucket(epoch, window, index)
            cut = slice(*(len(samples) * (part.index % slices + end) // slices for end in (0, 1)))
            found += [(epoch, sample) for sample in samples[cut].tolist()]
            skipped += int(replaced[cut].sum())
        self._windows.count_skipped(step, part, skipped)
        return found

    def stand_in(self, step: int, part: Part) -> tuple[int, int]:
        """(epoch, sample) of a sample of the part's bucket, for a part that has none of its own."""
        epoch, window, index = self._locate(step * self._buckets + part.index // (part.count // self._buckets))
        return epoch, int(self._bucket(epoch, window, index)[0][0])

    def window(self, epoch: int, sample: int) -> Index:
        """Images of the sample's window, see `Windows.images`."""
        return self._windows.images(epoch, sample)

    def filled(self, step: int) -> float:
        """Share of the step's budget that is words and regions; the rest is padding, or stays empty."""
        real = 0
        for number in range(step * self._buckets, (step + 1) * self._buckets):
            epoch, _, index = self._locate(number)
            plan = self._plan(epoch)
            samples = plan.line[plan.firsts[index] : plan.firsts[index] + plan.counts[index]]
            real += self._rows * int(self._tokens_of(samples).sum())
        return real / (self._buckets * self._tokens)

    def samples_a_step(self) -> float:
        """Mean number of samples of the steps of the first epoch."""
        return len(self._windows) * self._buckets / len(self._plan(0).counts)

    def _locate(self, bucket: int) -> tuple[int, int, int]:
        """Epoch, window and position in the epoch of a bucket of the run."""
        while not self._ends or self._ends[-1] <= bucket:
            ends = self._ends
            # As a new list: another thread may do the same.
            self._ends = [*ends, (ends[-1] if ends else 0) + len(self._plan(len(ends)).counts)]
        ends = self._ends
        epoch = int(np.searchsorted(ends, bucket, side="right"))
        index = bucket - (ends[epoch - 1] if epoch else 0)
        return epoch, int(self._plan(epoch).windows[index]), index

    def _bucket(self, epoch: int, window: int, index: int) -> tuple[Index, Flags]:
        """Samples of a bucket, and which of them stand in for others."""
        plan = self._plan(epoch)
        samples, replaced = self._line(epoch, window, self._windows.lost)
        first = int(plan.firsts[index] - self._windows.epoch(epoch).starts[window])
        places = slice(first, first + int(plan.counts[index]))
        return samples[places], replaced[places]

    def _sound_line(self, epoch: int, window: int, lost: int) -> tuple[Index, Flags]:
        """A window's line with samples of bad shards replaced, and which those are."""
        first, last = self._windows.epoch(epoch).starts[window : window + 2]
        line = self._plan(epoch).line[first:last]
        bad = self._windows.bad(epoch, window, line)
        good = np.flatnonzero(~bad)
        next_good = good[np.searchsorted(good, np.arange(len(line))) % len(good)]
        return line[next_good], bad

    def _plan_epoch(self, epoch: int) -> _Plan:
        lines, firsts, counts, windows = [], [], [], []
        starts = self._windows.epoch(epoch).starts
        for window in range(len(starts) - 1):
            line = self._line_up(shuffle(self._windows, epoch, window))
            sizes = self._fill(line)
            draws = generator(self._windows.seed, "buckets", epoch, window + 1).random(len(sizes))
            shown = np.argsort(draws, kind="stable")
            lines.append(line)
            firsts.append(starts[window] + (np.cumsum(sizes) - sizes)[shown])
            counts.append(sizes[shown])
            windows.append(np.full(len(sizes), window))
        return _Plan(*(np.concatenate(parts) for parts in (lines, firsts, counts, windows)))

    def _line_up(self, samples: Index) -> Index:
        """Samples in the line in which neighbours have like numbers of words and of regions."""
        words, regions, _ = self._lengths
        full = self._rows * int(self._tokens_of(samples).sum()) / self._tokens
        strips = np.array_split(samples[np.argsort(regions[samples], kind="stable")], max(1, round(2 * full**0.5)))
        turned = [words[strip] * (-1 if number % 2 else 1) for number, strip in enumerate(strips)]
        return np.concatenate([strip[np.argsort(by, kind="stable")] for strip, by in zip(strips, turned, strict=True)])

    def _fill(self, line: Index) -> Index:
        """Sizes of the buckets that a line fills."""
        words, regions = self._lengths.words[line], self._lengths.regions[line]
        # No bucket has more samples than the shortest one would allow.
        most = max(1, self._tokens // (self._rows * max(1, int(self._tokens_of(line).min(initial=self._tokens)))))
        ranks = self._rows * np.arange(1, most + 1)
        sizes: list[int] = []
        first = 0
        while first < len(line):
            ahead = slice(first, first + most)
            longest = np.maximum.accumulate(words[ahead]) + np.maximum.accumulate(regions[ahead]) + self._lengths.marks
            size = int(np.searchsorted(longest * ranks[: len(longest)], self._tokens, side="right"))
            assert size, "a sample exceeds the budget of a bucket"
            sizes.append(size)
            first += size
        return np.array(sizes, np.int64)

    def _tokens_of(self, samples: Index) -> Index:
        words, regions, marks = self._lengths
        return words[samples] + regions[samples] + marks
