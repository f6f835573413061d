"""Put samples in a random order without a list of them.

The order of N samples is a permutation of 0 to N - 1 that is computed place by place: a Feistel network of four rounds
over the numbers of the fewest even bits that hold N, walked on while it leads beyond N - 1 (Black and Rogaway, 2002).
Its rounds take the numbers of `model.data.draws`. So 50 million samples need no memory, and a place costs microseconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.data.draws import Purpose, draw_bits

_ROUNDS = 4
Index = npt.NDArray[np.int64]


def permute(seed: int, purpose: Purpose, places: Index, count: int) -> Index:
    """The samples (B,) at some places: of each epoch, every sample once.

    Args:
        places: (B, 2) epoch and position, which is below count.
        count: N, up to 2^62.
    """
    half = max(1, -(-(count - 1).bit_length() // 2))
    epochs, samples = places.T.copy()
    outside = np.ones(len(places), np.bool_)
    while outside.any():
        samples[outside] = _mixed(seed, purpose, epochs[outside], samples[outside], half)
        outside = samples >= count
    return samples


def _mixed(seed: int, purpose: Purpose, epochs: Index, values: Index, half: int) -> Index:
    """A permutation of the numbers of 2 x half bits, another one in each epoch."""
    mask = (1 << half) - 1
    left, right = values >> half, values & mask
    for number in range(_ROUNDS):
        turns = np.stack([epochs, right * _ROUNDS + number], 1)
        bits = (draw_bits(seed, purpose, turns, 1)[:, 0] >> np.uint64(1)).astype(np.int64)
        left, right = right, left ^ (bits & mask)
    return left << half | right
