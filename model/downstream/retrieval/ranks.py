"""Ranks of true candidates, counted off a score matrix some rows at a time. Ties count against us.

A rank needs no sorting: it is one more than the number of wrong candidates that score as high as the best true one, or
higher. So the matrix is gone through twice and never held: first the scores of the true pairs are picked out, then
every score is compared with the best true one of its row and of its column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.downstream.retrieval.scores import Index, ScoreMatrix
from model.errors import InputError

Numbers = npt.NDArray[np.floating[Any]]

COMPARED_AT_ONCE = 2**22
"""Scores; temporary arrays are as large: a block may be a whole matrix in memory."""


@dataclass(frozen=True)
class Pairs:
    """True pairs, each once: `rows` (pairs,) of images and `columns` (pairs,) of captions."""

    rows: Index
    columns: Index


@dataclass(frozen=True)
class Fold:
    """Images and captions that are each other's only candidates."""

    rows: range
    columns: Index


@dataclass(frozen=True)
class Ranks:
    """Rank, 1 first, of the best true candidate of each query of a fold.

    Attributes:
        rows, columns: the queries in the matrix, ascending; without those that have no true candidate in the fold.
        image_to_text: (rows,) by the best of an image's true captions.
        text_to_image: (columns,) by the best of a caption's true images.
    """

    rows: Index
    image_to_text: Index
    columns: Index
    text_to_image: Index


def fold_ranks(
    scores: ScoreMatrix, image_to_text: Pairs, text_to_image: Pairs, folds: Sequence[Fold], *, left_out: bool = False
) -> list[Ranks]:
    """Ranks in both directions within each fold; folds may overlap, as those of several protocols do.

    Args:
        scores: higher means a better match. Read twice, in about 40 MB besides a block.
        image_to_text, text_to_image: the true pairs of each direction; in most ground truths they are the same.
        left_out: -inf stands for a pair that a shortlist left out. A query with no other true candidate ranks last,
            after every candidate.

    Raises:
        InputError: a score is not finite.
    """
    image_values = values_at(scores, image_to_text)
    text_values = image_values if text_to_image is image_to_text else values_at(scores, text_to_image)
    counts = [_FoldCount(fold, image_to_text, image_values, text_to_image, text_values) for fold in folds]
    for first, chunk in bounded_chunks(scores):
        _check(first, chunk, left_out)
        for count in counts:
            count.add(first, chunk)
    return [count.ranks() for count in counts]


class _Count:
    """For each query of one direction in a fold, the number of candidates that score as high as the best true one.

    Args:
        query: (pairs,) the query of each true pair, counted within the fold.
        values: (pairs,) its score.
        queries, candidates: how many there are in the fold.
    """

    def __init__(self, query: Index, values: Numbers, queries: int, candidates: int) -> None:
        self._candidates = candidates
        self._asked = np.bincount(query, minlength=queries) > 0
        self.best = np.full(queries, -np.inf, values.dtype)
        """(queries,) -inf for those that have no true candidate, or whose true candidates were all left out."""
        np.maximum.at(self.best, query, values)
        self._true = np.bincount(query[values >= self.best[query]], minlength=queries)
        self.as_high = np.zeros(queries, np.int64)
        """(queries,) wrong candidates and true ones together."""

    def ranks(self) -> tuple[Index, Index]:
        """Queries within the fold, and their ranks."""
        ranks = np.where(self.best == -np.inf, self._candidates, 1 + self.as_high - self._true)
        return np.flatnonzero(self._asked), ranks[self._asked]


class _FoldCount:
    """Counts of a fold's both directions, while the matrix goes by."""

    def __init__(
        self, fold: Fold, image_to_text: Pairs, image_values: Numbers, text_to_image: Pairs, text_values: Numbers
    ) -> None:
        self._first, self._columns = fold.rows.start, fold.columns
        rows, columns = len(fold.rows), len(fold.columns)
        # A run of columns is a view of the matrix, others are copied.
        run = columns > 0 and fold.columns[-1] - fold.columns[0] == columns - 1
        self._taken = slice(fold.columns[0], fold.columns[-1] + 1) if run else fold.columns
        inside = _inside(fold, image_to_text)
        self._images = _Count(image_to_text.rows[inside] - self._first, image_values[inside], rows, columns)
        inside = _inside(fold, text_to_image)
        captions = np.searchsorted(fold.columns, text_to_image.columns[inside])
        self._captions = _Count(captions, text_values[inside], columns, rows)
        self._rows = rows

    def add(self, first: int, chunk: Numbers) -> None:
        """Count the rows of the matrix from `first` on."""
        start, stop = max(first - self._first, 0), min(first + len(chunk) - self._first, self._rows)
        if start >= stop:
            return
        offset = self._first - first
        part = chunk[start + offset : stop + offset, self._taken]
        self._images.as_high[start:stop] += np.count_nonzero(part >= self._images.best[start:stop, None], axis=1)
        self._captions.as_high += np.count_nonzero(part >= self._captions.best, axis=0)

    def ranks(self) -> Ranks:
        images, image_ranks = self._images.ranks()
        captions, text_ranks = self._captions.ranks()
        return Ranks(images + self._first, image_ranks, self._columns[captions], text_ranks)


def _inside(fold: Fold, pairs: Pairs) -> npt.NDArray[np.bool_]:
    """Whether both image and caption of each pair (pairs,) are in the fold."""
    rows = (pairs.rows >= fold.rows.start) & (pairs.rows < fold.rows.stop)
    return rows & np.isin(pairs.columns, fold.columns)


def values_at(scores: ScoreMatrix, pairs: Pairs) -> Numbers:
    """The scores (pairs,) of some pairs."""
    order = np.argsort(pairs.rows, kind="stable")
    rows, columns = pairs.rows[order], pairs.columns[order]
    found = []
    for first, block in scores.blocks():
        here = slice(*np.searchsorted(rows, [first, first + len(block)]))
        found.append(block[rows[here] - first, columns[here]])
    in_order = np.concatenate(found)
    values = np.empty_like(in_order)
    values[order] = in_order
    return values


def bounded_chunks(scores: ScoreMatrix) -> Iterator[tuple[int, Numbers]]:
    """Cut the blocks into pieces of a bounded size, each with the number of its first row."""
    rows = max(COMPARED_AT_ONCE // max(scores.shape[1], 1), 1)
    for first, block in scores.blocks():
        for start in range(0, len(block), rows):
            yield first + start, block[start : start + rows]


def _check(first: int, chunk: Numbers, left_out: bool) -> None:
    # NaN is the smallest and the largest of whatever it is among.
    low, high = chunk.min(), chunk.max()
    if np.isfinite(high) and (np.isfinite(low) or (left_out and low == -np.inf)):
        return
    broken = ~np.isfinite(chunk) & ~((chunk == -np.inf) & left_out)
    if not broken.any():
        return
    row, column = np.argwhere(broken)[0]
    raise InputError(
        f"the score of image row {first + row} with caption column {column} is {chunk[row, column]}: the checkpoint or "
        "its features are broken; score an earlier checkpoint, or check the features"
    )
