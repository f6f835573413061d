"""Area under the ROC curve, where ties count half (Fawcett 2006, section 7)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.downstream.bootstrap import SEED, Values, drawn_times, percentile_intervals

_WEIGHTS_AT_ONCE = 2**22
"""Of examples in resamples: 32 MiB an array."""


def roc_auc(labels: npt.NDArray[np.bool_], scores: Values) -> float:
    """Chance that a relevant example scores above one that is not; a tie counts half. NaN where one class is absent.

    Args:
        labels: (examples,) True where relevant.
        scores: (examples,) higher means more relevant.
    """
    return float(_weighted_auc(np.ones((1, len(labels))), labels, scores)[0])


def auc_interval(labels: npt.NDArray[np.bool_], scores: Values, images: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95% bootstrap interval over images.

    A resample with examples of one class only has no area and does not count; where none has both, the ends are NaN.

    Args:
        images: (examples,) the number of each example's image, from 0.
    """
    at_once = max(_WEIGHTS_AT_ONCE // len(labels), 1)
    drawn = [
        _weighted_auc(times[start : start + at_once, images], labels, scores)
        for times in drawn_times(int(images.max()) + 1, np.random.default_rng(SEED))
        for start in range(0, len(times), at_once)
    ]
    return percentile_intervals(np.concatenate(drawn)[:, None])[0]


def _weighted_auc(weights: Values, labels: npt.NDArray[np.bool_], scores: Values) -> Values:
    """Areas (resamples,) where examples count as often as `weights` (resamples, examples) says."""
    distinct, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    sorted_weights, sorted_labels = weights[:, order], labels[order]
    # By distinct score, in rising order.
    relevant = np.add.reduceat(sorted_weights * sorted_labels, starts, axis=1)
    others = np.add.reduceat(sorted_weights * ~sorted_labels, starts, axis=1)
    below = others.cumsum(1) - others / 2
    pairs = relevant.sum(1) * others.sum(1)
    return np.where(pairs > 0, (relevant * below).sum(1) / np.maximum(pairs, 1), np.nan)
