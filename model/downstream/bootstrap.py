"""Efron's percentile bootstrap over images, for any measure of any task.

Efron and Tibshirani 1993, chapter 13. Images are drawn with replacement, each with all that was asked about it: its
examples are right and wrong together, and drawing them one by one would make the intervals too narrow. The seed is
fixed, so the same examples have the same intervals.

The intervals say nothing of what another training seed, or looking at the test set often, would change; and a measure
of exactly 0 or 1 gets an interval without width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

RESAMPLES = 1000
SEED = 0
_COVERED = (2.5, 97.5)
_DRAWN_AT_ONCE = 2**20
"""Images; a thousand resamples of 25,000 images at once would take 200 MB for each temporary array."""


def drawn_times(images: int, random: np.random.Generator) -> Iterator[Values]:
    """Draw as many images as there are, RESAMPLES times.

    Yields:
        (resamples, images) how often each image was drawn, a multinomial count: some resamples at a time.
    """
    at_once = max(_DRAWN_AT_ONCE // images, 1)
    for start in range(0, RESAMPLES, at_once):
        resamples = min(at_once, RESAMPLES - start)
        places = random.integers(images, size=(resamples, images)) + np.arange(0, resamples * images, images)[:, None]
        yield np.bincount(places.ravel(), minlength=resamples * images).reshape(resamples, images).astype(np.float64)


def percentile_intervals(values: Values) -> list[tuple[float, float]]:
    """The 95% interval of each column of (RESAMPLES, measures).

    A resample in which a measure is undefined (NaN), as none of its examples was drawn, does not count for it.
    """
    columns = (column[~np.isnan(column)] for column in values.T)
    pairs = (np.percentile(column, _COVERED).tolist() if len(column) else (np.nan, np.nan) for column in columns)
    return [(low, high) for low, high in pairs]
