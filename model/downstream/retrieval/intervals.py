"""95% bootstrap intervals of recall: how far it would move with other test images of the same kind.

The bootstrap over images (`model/downstream/bootstrap.py`) draws an image with its captions. The ranks stand: the
candidates of a query stay all of the split, and only which queries count changes; so the intervals say nothing of
another set of candidates. Recall over captions is a ratio of two sums, as images differ in their captions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.downstream.bootstrap import RESAMPLES, SEED, Values, drawn_times, percentile_intervals
from model.downstream.retrieval.ranks import Fold, Ranks
from model.downstream.retrieval.scores import Index


def recall_intervals(
    folds: Sequence[Fold], ranks: Sequence[Ranks], caption_image: Index, depths: Sequence[int]
) -> list[tuple[float, float]]:
    """Intervals of image-to-text and text-to-image recall at some depths, and of their sum.

    Images are drawn within their fold, and the folds averaged as the metrics are.

    Args:
        caption_image: (captions,) the row of each caption's image, the one that it is drawn with.
    """
    # One stream for all folds: folds of one size shall not draw the same places.
    random = np.random.default_rng(SEED)
    drawn = np.zeros((RESAMPLES, 2, len(depths)))
    for fold, fold_ranks in zip(folds, ranks, strict=True):
        drawn += resampled_recall(*image_counts(fold, fold_ranks, caption_image, depths), random)
    recalls = drawn.reshape(RESAMPLES, -1) / len(folds)
    values = np.column_stack([recalls, recalls.sum(1)])
    return percentile_intervals(values)


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
    drawn = resampled_recall(sums, queries, np.random.default_rng(SEED)).reshape(RESAMPLES, -1)
    return percentile_intervals(drawn)


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
    parts = []
    for times in drawn_times(images, random):
        found = (times @ hits.reshape(images, -1)).reshape(len(times), *hits.shape[1:])
        # Among very few queries none may be drawn; that draw finds nothing.
        parts.append(found / np.maximum(times @ queries, 1)[:, :, None])
    return np.concatenate(parts)
