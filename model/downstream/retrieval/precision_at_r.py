"""R-Precision and mAP@R: how many of a query's true candidates are found first, where it has several.

Of a query with R true candidates, R-Precision is the share of true ones among the R best, and AP@R the sum over k = 1
.. R of precision at k where the k-th best is true, divided by R (Musgrave et al., ECCV 2020; Chun et al., ECCV 2022);
mAP@R is its mean over the queries. Ties count against us: a wrong candidate of the same score comes first. A true
candidate that was not scored belongs to R and is never found, as in ECCV Caption's own evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.downstream.bootstrap import Values
from model.downstream.retrieval.positives import Positives
from model.downstream.retrieval.ranks import COMPARED_AT_ONCE, Numbers, Pairs, bounded_chunks, values_at
from model.downstream.retrieval.scores import Index, ScoreMatrix


@dataclass(frozen=True)
class Precisions:
    """R-Precision and AP@R of the queries of one direction.

    Attributes:
        queries: (queries,) their rows, or columns, in the matrix, ascending.
        r_precision, average_precision: (queries,) R-Precision and AP@R, fractions.
    """

    queries: Index
    r_precision: Values
    average_precision: Values


def precisions(scores: ScoreMatrix, positives: Positives) -> tuple[Precisions, Precisions]:
    """Measure both directions over all scored images and captions. Reads the matrix three times.

    Args:
        scores: without a NaN; -inf stands for a pair that a shortlist left out, which is never found.
        positives: the true pairs. Each query has at least one.
    """
    to_text, to_image = positives.image_to_text, positives.text_to_image
    text_values, image_values = values_at(scores, to_text), values_at(scores, to_image)
    text_as_high, image_as_high = _as_high(scores, to_text, text_values, to_image, image_values)
    lost_texts = np.array([row for row, _ in positives.unscored_captions], np.int64)
    lost_images = np.array([column for column, _ in positives.unscored_images], np.int64)
    return (
        _precisions(to_text.rows, text_values, text_as_high, lost_texts),
        _precisions(to_image.columns, image_values, image_as_high, lost_images),
    )


def _as_high(
    scores: ScoreMatrix, to_text: Pairs, text_values: Numbers, to_image: Pairs, image_values: Numbers
) -> tuple[Index, Index]:
    """For each pair (pairs,), of both directions: the candidates of its query that score as high or higher."""
    captions = scores.shape[1]
    text_counts = np.zeros(len(text_values), np.int64)
    image_counts = np.zeros(len(image_values), np.int64)
    by_row = np.argsort(to_text.rows, kind="stable")
    rows = to_text.rows[by_row]
    for first, chunk in bounded_chunks(scores):
        start, stop = np.searchsorted(rows, [first, first + len(chunk)])
        for here in _parts(int(start), int(stop), captions):
            pairs = by_row[here]
            as_high = chunk[to_text.rows[pairs] - first] >= text_values[pairs, None]
            text_counts[pairs] = np.count_nonzero(as_high, axis=1)
        for here in _parts(0, len(image_values), len(chunk)):
            as_high = chunk[:, to_image.columns[here]] >= image_values[here]
            image_counts[here] += np.count_nonzero(as_high, axis=0)
    return text_counts, image_counts


def _parts(start: int, stop: int, width: int) -> list[slice]:
    """Cut the pairs from start to stop into pieces for comparison with `width` candidates each."""
    size = max(COMPARED_AT_ONCE // max(width, 1), 1)
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def _precisions(query: Index, values: Numbers, as_high: Index, lost: Index) -> Precisions:
    """Precisions of one direction.

    Args:
        query, values, as_high: (pairs,) row or column of a pair's query, its score, and candidates that score as high.
        lost: the query of each true candidate that was not scored.
    """
    order = np.lexsort((-values, query))
    query, values, as_high = query[order], values[order], as_high[order]
    queries, first, scored = np.unique(query, return_index=True, return_counts=True)
    own = np.repeat(np.arange(len(queries)), scored)
    place = np.arange(len(query)) - first[own] + 1
    """(pairs,) 1 for the best true candidate of each query."""
    # Of true candidates with one score, the last one's place: so many true ones score as high.
    last = np.append((query[1:] != query[:-1]) | (values[1:] != values[:-1]), True)[: len(query)]
    true_as_high = place[last][np.cumsum(last) - last]
    rank = place + as_high - true_as_high
    wanted = scored + np.bincount(np.searchsorted(queries, lost), minlength=len(queries))
    found = (rank <= wanted[own]) & (values > -np.inf)
    return Precisions(
        queries,
        np.bincount(own[found], minlength=len(queries)) / wanted,
        np.bincount(own[found], place[found] / rank[found], len(queries)) / wanted,
    )
