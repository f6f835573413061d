"""Random generators of a run: one for each purpose and step."""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["order", "negatives", "buckets"]


_PURPOSES: tuple[Purpose, ...] = ("order", "negatives", "buckets")


def generator(seed: int, purpose: Purpose, epoch: int, sample: int = 0) -> np.random.Generator:
    """The random generator of one sample in one epoch: the same whatever the batch, rank or worker.

    Counter-based (Philox), so that making one costs microseconds and no two streams overlap.
    """
    return np.random.Generator(
        np.random.Philox(key=[seed, _PURPOSES.index(purpose)], counter=np.array([0, 0, sample, epoch], np.uint64))
    )
