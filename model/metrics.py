"""Scores to retrieval metrics. Fractions everywhere; only reports multiply by 100."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from model.data import Index

RECALL_DEPTHS = (1, 5, 10)


class RetrievalMetrics(BaseModel):
    """Recall in both directions over one exact score matrix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    captions: int
    image_to_text_recall: dict[int, float] = Field(
        description="k -> share of images whose k best captions hold a true one"
    )
    text_to_image_recall: dict[int, float] = Field(description="k -> share of captions whose k best images hold theirs")
    image_to_text_median_rank: float = Field(description="1 is best")
    text_to_image_median_rank: float = Field(description="1 is best")

    @property
    def recall_sum(self) -> float:
        return sum(self.image_to_text_recall.values()) + sum(self.text_to_image_recall.values())

    def flat(self) -> dict[str, float]:
        """Every recall under a name that says its direction, and their sum."""
        named = {f"image_to_text_r{k}": v for k, v in self.image_to_text_recall.items()}
        named |= {f"text_to_image_r{k}": v for k, v in self.text_to_image_recall.items()}
        return named | {"recall_sum": self.recall_sum}


def best_ranks(scores: npt.NDArray[np.float32], correct: Sequence[set[int]]) -> npt.NDArray[np.int64]:
    """Rank of the best true candidate of each query, 1 first; ties count against us.

    Args:
        scores: (queries, candidates); higher means a better match.
        correct: for each query, the columns of its true matches.

    Raises:
        ValueError: a query has no true match, so no model could ever find it; or a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite; the checkpoint or its features are broken")
    ranks = np.empty(len(scores), np.int64)
    for query, columns in enumerate(correct):
        if not columns:
            raise ValueError(f"query {query} has no true match, so no model could ever find it")
        true = np.fromiter(columns, np.int64)
        wrong = np.delete(scores[query], true)
        ranks[query] = 1 + int((wrong >= scores[query, true].max()).sum())
    return ranks


def recall_at_k(scores: npt.NDArray[np.float32], correct: Sequence[set[int]], k: int) -> float:
    """Share of queries that find a correct candidate among their k best.

    Ties count against us: a model that scores everything alike finds nothing (unless k covers every candidate).

    Args:
        scores: (queries, candidates) float; higher means a better match.
        correct: for each query, the columns of its true matches; an image with five captions has five.
        k: search depth, at least 1.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: a query has no true match.
    """
    return float((best_ranks(scores, correct) <= k).mean())


def retrieval_metrics(scores: npt.NDArray[np.float32], caption_image: Index) -> RetrievalMetrics:
    """Metrics of a score matrix (images, captions); `caption_image` (captions,) is the row of each caption's image."""
    captions_of: list[set[int]] = [set() for _ in range(len(scores))]
    for caption, image in enumerate(caption_image):
        captions_of[int(image)].add(caption)
    image_ranks = best_ranks(scores, captions_of)
    text_ranks = best_ranks(scores.T, [{int(image)} for image in caption_image])
    return RetrievalMetrics(
        images=scores.shape[0],
        captions=scores.shape[1],
        image_to_text_recall={k: float((image_ranks <= k).mean()) for k in RECALL_DEPTHS},
        text_to_image_recall={k: float((text_ranks <= k).mean()) for k in RECALL_DEPTHS},
        image_to_text_median_rank=float(np.median(image_ranks)),
        text_to_image_median_rank=float(np.median(text_ranks)),
    )
