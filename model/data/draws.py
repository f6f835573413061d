"""Random numbers of many samples at once.

Each is a function of (seed, purpose, epoch, sample, place) alone.

So a sample's masks and partner are the same in any batch, on any rank, in any part. The numbers are SplitMix64's
(Steele et al., 2014): a counter, mixed; a generator object for every sample would cost more than all else that makes a
batch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Purpose = Literal[
    "pair",
    "hide",
    "word",
    "word_fate",
    "word_piece",
    "region",
    "region_fate",
    "noise",
    "donor",
    "taken",
    "objective",
    "passage",
    "text_word",
    "text_word_fate",
    "text_word_piece",
]
_PURPOSES: dict[Purpose, int] = {
    "pair": 0,
    "hide": 1,
    "word": 2,
    "word_fate": 3,
    "word_piece": 4,
    "region": 5,
    "region_fate": 6,
    "noise": 7,
    "donor": 8,
    "taken": 9,
    "objective": 10,
    "passage": 11,
    "text_word": 12,
    "text_word_fate": 13,
    "text_word_piece": 14,
}
_STEP = np.uint64(0x9E3779B97F4A7C15)
Bits = npt.NDArray[np.uint64]


def draw_bits(seed: int, purpose: Purpose, turns: npt.NDArray[np.int64], count: int) -> Bits:
    """Random 64-bit numbers (B, count).

    Args:
        turns: (B, 2) epoch and sample of each row.
    """
    key = _mix(_mix(np.array([seed], np.uint64)) ^ np.uint64(_PURPOSES[purpose]))
    epochs, samples = turns.astype(np.uint64).T
    key = _mix(_mix(key ^ epochs) ^ samples)
    return _mix(key[:, None] + np.arange(count, dtype=np.uint64) * _STEP)


def draw_uniforms(seed: int, purpose: Purpose, turns: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Random numbers (B, count) in [0, 1)."""
    return (draw_bits(seed, purpose, turns, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(values: Bits) -> Bits:
    values = values + _STEP
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
