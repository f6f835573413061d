"""Rank and margin of each query of an evaluation, and the queries that a gallery shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.downstream.retrieval.ranks import Fold, Pairs, fold_ranks
from model.downstream.retrieval.scores import Floats, Index, ScoreMatrix

WORST, BEST = 3, 3
BETWEEN = (0.2, 0.4, 0.6, 0.8)

_COMPARED_AT_ONCE = 2**22  # scores; a block may be a whole matrix in memory, and its copies are not to be


@dataclass(frozen=True)
class RankedQueries:
    """Rank and margin of the best true candidate, for the queries of one direction.

    Attributes:
        ranks: (queries,) 1 is best, ties count against.
        margins: (queries,) the score of the best true candidate less that of the best wrong one. Infinite where no
            wrong candidate was scored, minus infinite where no true one was.
    """

    ranks: Index
    margins: Floats

    @property
    def order(self) -> Index:
        """The queries, worst first: by rank, at equal rank by margin, then as they come."""
        return np.lexsort((self.margins, -self.ranks))


def rank_queries(scores: ScoreMatrix, caption_image: Index) -> tuple[RankedQueries, RankedQueries]:
    """Rank the images that look for a caption, and the captions that look for an image, over the whole matrix.

    Args:
        scores: (images, captions); -inf for a pair that was left out. Read three times, a bounded part at a time.
        caption_image: (captions,) the row of each caption's image; every image has a caption.
    """
    images, captions = scores.shape
    pairs = Pairs(caption_image, np.arange(captions))
    everything = Fold(range(images), np.arange(captions))
    (ranks,) = fold_ranks(scores, pairs, pairs, [everything], left_out=True)
    image_margins, caption_margins = _margins(scores, caption_image)
    return RankedQueries(ranks.image_to_text, image_margins), RankedQueries(ranks.text_to_image, caption_margins)


def choose(queries: RankedQueries, same: Index | None = None) -> list[int]:
    """Choose a gallery's queries, worst first: the first and the last of the order, and some in between.

    Args:
        queries: of one direction.
        same: (queries,) a number each; of queries with the same one, such as captions of one image, only the first met
            is shown.
    """
    order = queries.order
    groups = np.arange(len(order)) if same is None else same
    last = len(order) - 1
    chosen: dict[int, int] = {}  # place in the order -> query
    taken: set[int] = set()

    def take(places: Iterable[int]) -> None:
        """The first of these places whose group is not shown yet."""
        for place in places:
            query = int(order[place])
            if int(groups[query]) not in taken:
                taken.add(int(groups[query]))
                chosen[place] = query
                return

    for _ in range(WORST):
        take(range(len(order)))
    for _ in range(BEST):
        take(range(last, -1, -1))
    for share in BETWEEN:
        take(range(round(share * last), len(order)))
    return [chosen[place] for place in sorted(chosen)]


def best_first(scores: Floats, correct: npt.NDArray[np.bool_]) -> Index:
    """Candidates of a query, best first; of equal scores the true ones come last, for ties count against us.

    Args:
        scores: (candidates,).
        correct: (candidates,) which of them are true.
    """
    return np.lexsort((correct, -scores))


def _margins(scores: ScoreMatrix, caption_image: Index) -> tuple[Floats, Floats]:
    images, captions = scores.shape
    by_image = np.argsort(caption_image, kind="stable")
    sorted_images = caption_image[by_image]
    own = np.empty(captions, np.float32)
    wrong_caption = np.full(images, -np.inf, np.float32)
    wrong_image = np.full(captions, -np.inf, np.float32)
    rows = max(_COMPARED_AT_ONCE // captions, 1)
    for first, block in scores.blocks():
        for start in range(0, len(block), rows):
            chunk = np.array(block[start : start + rows])
            top = first + start
            bottom = top + len(chunk)
            columns = by_image[slice(*np.searchsorted(sorted_images, [top, bottom]))]
            true = (caption_image[columns] - top, columns)
            own[columns] = chunk[true]
            chunk[true] = -np.inf
            wrong_caption[top:bottom] = chunk.max(axis=1)
            np.maximum(wrong_image, chunk.max(axis=0), out=wrong_image)
    best_own = np.full(images, -np.inf, np.float32)
    np.maximum.at(best_own, caption_image, own)
    return _difference(best_own, wrong_caption), _difference(own, wrong_image)


def _difference(true: Floats, wrong: Floats) -> Floats:
    """Margins; where neither was scored, the true candidate is as good as lost."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(true), np.float32(-np.inf), true - wrong)
