"""Retrieval measured against a ground truth with several true candidates a query: recall, R-Precision and mAP@R."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model.downstream.retrieval.intervals import mean_intervals
from model.downstream.retrieval.metrics import RetrievalMetrics, measure
from model.downstream.retrieval.positives import Id, Positives
from model.downstream.retrieval.precision_at_r import Precisions, precisions
from model.downstream.retrieval.ranks import Fold
from model.downstream.retrieval.scores import Index, ScoreMatrix

POSITIVES_FORMAT = "positives/1"
_MEASURES = tuple(f"{way}_{kind}" for way in ("image_to_text", "text_to_image") for kind in ("map_at_r", "r_precision"))


class PositivesMetrics(BaseModel):
    """Measures by one ground truth, over all that was scored. Fractions; ties count against us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = POSITIVES_FORMAT
    name: str = Field(description="of the ground truth")
    files: dict[str, str] = Field(default={}, description="file name -> sha256, of the ground truth and of its ids")
    image_queries: int
    caption_queries: int
    recall: RetrievalMetrics = Field(description="by this ground truth, with its intervals")
    image_to_text_map_at_r: float
    image_to_text_r_precision: float
    text_to_image_map_at_r: float
    text_to_image_r_precision: float
    intervals: dict[str, tuple[float, float]] = Field(description="95% bootstrap intervals of these four by name")
    unscored_captions: tuple[Id, ...] = Field(
        default=(), description="ids of true captions that were not scored: they belong to R and are never found"
    )
    unscored_images: tuple[Id, ...] = Field(default=(), description="the same of images")


def measure_positives(
    scores: ScoreMatrix, caption_image: Index, positives: Positives, *, approximate: str | None = None
) -> PositivesMetrics:
    """Measure a score matrix (images, captions) by a ground truth, with intervals; reads the matrix five times.

    Args:
        caption_image: (captions,) the row of each caption's image: it is drawn with it for the intervals.
        approximate: what a shortlist left out; see `model.downstream.retrieval.metrics.measure`.

    Raises:
        InputError: a direction has no query, a score is not finite, or an image has no caption.
    """
    (recall,) = measure(scores, caption_image, ["all"], positives=positives, approximate=approximate)
    to_text, to_image = precisions(scores, positives)
    images, captions = scores.shape
    fold = Fold(range(images), np.arange(captions))
    sides = ((to_text.queries, _columns(to_text)), (caption_image[to_image.queries], _columns(to_image)))
    return PositivesMetrics(
        name=positives.name,
        image_queries=len(to_text.queries),
        caption_queries=len(to_image.queries),
        recall=recall,
        image_to_text_map_at_r=float(to_text.average_precision.mean()),
        image_to_text_r_precision=float(to_text.r_precision.mean()),
        text_to_image_map_at_r=float(to_image.average_precision.mean()),
        text_to_image_r_precision=float(to_image.r_precision.mean()),
        intervals=dict(zip(_MEASURES, mean_intervals(fold, sides), strict=True)),
        unscored_captions=tuple(sorted({caption for _, caption in positives.unscored_captions}, key=str)),
        unscored_images=tuple(sorted({image for _, image in positives.unscored_images}, key=str)),
    )


def _columns(found: Precisions) -> np.ndarray:
    """AP@R and R-Precision as columns (queries, 2)."""
    return np.column_stack([found.average_precision, found.r_precision])
