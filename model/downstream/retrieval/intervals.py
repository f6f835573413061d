"""95% bootstrap intervals of recall: how far it would move with other test images of the same kind.

Efron's percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over images: an image with its captions is drawn as
one, with replacement, because captions of one image are right and wrong together and drawing them one by one would make
the intervals of text-to-image recall too narrow. The ranks stand: the candidates of a query stay all of the split, and
only which queries count changes. Recall over captions is a ratio of two sums, as images differ in their captions.

The intervals say nothing of what another training seed, another set of candidates, or looking at the test set often
would change; and a recall of exactly 0 or 1 gets an interval without width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.downstream.retrieval.ranks import Fold, Ranks
from model.downstream.retrieval.scores import Index

Values = npt.NDArray[np.float64]

RESAMPLES = 1000
_COVERED = (2.5, 97.5)
_SEED = 0
_DRAWN_AT_ONCE = 2**20
"""Images; a thousand resamples of 25,000 images at once would take 200 MB for each temporary array."""


def recall_intervals(
    folds: Sequence[Fold], ranks: Sequence[Ranks], caption_image: Index, depths: Sequence[int]
) -> list[tuple[float, float]]:
    """Intervals of image-to-text and text-to-image recall at some depths, and of their sum.

    Images are drawn within their fold, and the folds averaged as the metrics are.

    Args:
        caption_image: (captions,) the row of each caption's image, the one that it is drawn with.
    """
    # One stream for all folds: folds of one size shall not draw the same places.
    random = np.random.default_rng(_SEED)
    drawn = np.zeros((RESAMPLES, 2, len(depths)))
    for fold, fold_ranks in zip(folds, ranks, strict=True):
        drawn += resampled_recall(*image_counts(fold, fold_ranks, caption_image, depths), random)
    recalls = drawn.reshape(RESAMPLES, -1) / len(folds)
    values = np.column_stack([recalls, recalls.sum(1)])
    low, high = np.percentile(values, _COVERED, axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def mean_intervals(fold: Fold, sides: Sequence[tuple[Index, Values]]) -> list[tuple[float, float]]:
    """Intervals of the means of several measures over queries, by side and then by measure.

    Args:
        sides: of image-to-text and of text-to-image: (queries,) the row of each query's image, with which it is drawn,
            and (queries, measures) what each query adds.
    """
    images, measures = len(fold.rows), sides[0][1].shape[1]
    sums, queries = np.zeros((images, len(sides), measures)), np.zeros((images, len(sides)))
    for way, (rows, values) in enumerate(sides):
        image = rows - fold.rows.start
        queries[:, way] = np.bincount(image, minlength=images)
        for place in range(measures):
            sums[:, way, place] = np.bincount(image, values[:, place], images)
    drawn = resampled_recall(sums, queries, np.random.default_rng(_SEED)).reshape(RESAMPLES, -1)
    low, high = np.percentile(drawn, _COVERED, axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def image_counts(fold: Fold, ranks: Ranks, caption_image: Index, depths: Sequence[int]) -> tuple[Values, Values]:
    """Each image's contribution to the recall of a fold.

    Returns:
        Hits (images, 2, depths) and queries (images, 2), of the image itself and of its captions.
    """
    images = len(fold.rows)
    hits, queries = np.zeros((images, 2, len(depths))), np.zeros((images, 2))
    sides = ((ranks.rows, ranks.image_to_text), (caption_image[ranks.columns], ranks.text_to_image))
    for way, (rows, found) in enumerate(sides):
        image = rows - fold.rows.start
        queries[:, way] = np.bincount(image, minlength=images)
        for place, depth in enumerate(depths):
            hits[:, way, place] = np.bincount(image[found <= depth], minlength=images)
    return hits, queries


def resampled_recall(hits: Values, queries: Values, random: np.random.Generator) -> Values:
    """Recall (RESAMPLES, 2, depths) of as many images drawn with replacement."""
    images = len(hits)
    at_once = max(_DRAWN_AT_ONCE // images, 1)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        resamples = min(at_once, RESAMPLES - start)
        places = random.integers(images, size=(resamples, images)) + np.arange(0, resamples * images, images)[:, None]
        # How often each image was drawn: a multinomial count.
        times = np.bincount(places.ravel(), minlength=resamples * images).reshape(resamples, images).astype(np.float64)
        found = (times @ hits.reshape(images, -1)).reshape(resamples, *hits.shape[1:])
        # Among very few queries none may be drawn; that draw finds nothing.
        parts.append(found / np.maximum(times @ queries, 1)[:, :, None])
    return np.concatenate(parts)
