"""Pairs that an approximate evaluation scores exactly: a first pass's best of each image and of each caption."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.downstream.retrieval.scores import Floats, ScoreMatrix


class Shortlist:
    """The pairs that are among the `size` best of their image or of their caption in a first pass.

    Of equal scores at the border all are in, so that the choice does not depend on an order.
    """

    def __init__(self, first: ScoreMatrix, size: int) -> None:
        """Read the first pass once; holds `size` scores a caption."""
        images, captions = first.shape
        self._size = size
        best = np.full((0, captions), -np.inf, np.float32)
        for _, scores in first.blocks():
            best = _largest(np.concatenate([best, scores]), size)
        self._least_of_caption = best.min(axis=0) if images else np.full(captions, np.inf, np.float32)

    def of(self, scores: Floats) -> npt.NDArray[np.bool_]:
        """Which pairs of a block (rows, captions) of the first pass are in."""
        least_of_image = _largest(scores.T, self._size).min(axis=0)
        return np.asarray((scores >= self._least_of_caption) | (scores >= least_of_image[:, None]))


def _largest(scores: Floats, count: int) -> Floats:
    """The `count` largest of each column, or all where there are fewer; in no order."""
    if len(scores) <= count:
        return scores
    return np.partition(scores, len(scores) - count, axis=0)[-count:]
