"""Turn scores into retrieval metrics. Fractions everywhere; only reports multiply by 100."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model.downstream.retrieval.intervals import recall_intervals
from model.downstream.retrieval.positives import Positives
from model.downstream.retrieval.protocols import protocol_name, protocol_rows
from model.downstream.retrieval.ranks import Fold, Pairs, Ranks, fold_ranks
from model.downstream.retrieval.scores import Index, ScoreMatrix
from model.errors import InputError

RECALL_DEPTHS = (1, 5, 10)


class RetrievalMetrics(BaseModel):
    """Retrieval in both directions over one score matrix, under one protocol. Ties count against us.

    Where the protocol has several folds, every number is the mean over them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(description="that the protocol measured, over all folds")
    captions: int = Field(description="that the protocol measured, over all folds")
    image_to_text_recall: dict[int, float] = Field(
        description="k -> share of images whose k best captions hold a true one"
    )
    text_to_image_recall: dict[int, float] = Field(description="k -> share of captions whose k best images hold theirs")
    image_to_text_median_rank: float = Field(description="1 is best")
    text_to_image_median_rank: float = Field(description="1 is best")
    image_to_text_mean_rank: float | None = Field(default=None, description="1 is best; None: an older program")
    text_to_image_mean_rank: float | None = Field(default=None, description="1 is best; None: an older program")
    protocol: str = Field(
        default="all", description="all, first:N or folds:N, see model/downstream/retrieval/protocols.py"
    )
    folds: int = 1
    split_images: int | None = Field(default=None, description="scored, whether measured or not; None: not known")
    intervals: dict[str, tuple[float, float]] | None = Field(
        default=None,
        description="95% bootstrap intervals of the values of flat(), see model/downstream/retrieval/intervals.py",
    )
    approximate: str | None = Field(
        default=None, description="what the scoring left out, in a line; None: every pair was scored"
    )
    positives: str | None = Field(
        default=None, description="the ground truth; None: a caption is true for the image it was written for"
    )

    @property
    def recall_sum(self) -> float:
        return sum(self.image_to_text_recall.values()) + sum(self.text_to_image_recall.values())

    def flat(self) -> dict[str, float]:
        """Every recall under a name that says its direction, and their sum."""
        named = {f"image_to_text_r{k}": v for k, v in self.image_to_text_recall.items()}
        named |= {f"text_to_image_r{k}": v for k, v in self.text_to_image_recall.items()}
        return named | {"recall_sum": self.recall_sum}


def protocol_text(metrics: RetrievalMetrics) -> str:
    """Queries and candidates in words, to be printed with every table of these metrics."""
    text = protocol_name(
        metrics.protocol, metrics.images, metrics.captions, metrics.folds, split_images=metrics.split_images
    )
    if metrics.positives is not None:
        text += f"; ground truth: {metrics.positives}"
    if metrics.approximate is not None:
        text += f"; approximate: {metrics.approximate}"
    return text


def retrieval_metrics(
    scores: ScoreMatrix,
    caption_image: Index,
    protocol: str = "all",
    *,
    positives: Positives | None = None,
    approximate: str | None = None,
) -> RetrievalMetrics:
    """Metrics of a score matrix (images, captions) under one protocol, without intervals; see `measure`."""
    return _measure(scores, caption_image, [protocol], positives, approximate, intervals=False)[0]


def measure(
    scores: ScoreMatrix,
    caption_image: Index,
    protocols: Sequence[str],
    *,
    positives: Positives | None = None,
    approximate: str | None = None,
) -> list[RetrievalMetrics]:
    """Metrics of a score matrix (images, captions) under each protocol, with intervals; the matrix is read twice.

    Args:
        caption_image: (captions,) the row of each caption's image.
        protocols: see `model.downstream.retrieval.protocols.protocol_rows`.
        positives: true pairs beyond an image and its own captions, such as those of ECCV Caption.
        approximate: what a shortlist left out, in a line. Such pairs score -inf, and a query whose true candidates were
            all left out ranks last. None: a score of -inf is an error.

    Raises:
        InputError: an image or a query without a true match, a score that is not finite, or a protocol that wants more
            images than there are.
    """
    return _measure(scores, caption_image, protocols, positives, approximate, intervals=True)


def _measure(
    scores: ScoreMatrix,
    caption_image: Index,
    protocols: Sequence[str],
    positives: Positives | None,
    approximate: str | None,
    intervals: bool,
) -> list[RetrievalMetrics]:
    images, captions = scores.shape
    _check_captions(images, captions, caption_image)
    own = Pairs(caption_image, np.arange(captions))
    to_text, to_image = (own, own) if positives is None else (positives.image_to_text, positives.text_to_image)
    cuts = [
        [Fold(rows, np.flatnonzero((caption_image >= rows.start) & (caption_image < rows.stop))) for rows in cut]
        for cut in (protocol_rows(protocol, images) for protocol in protocols)
    ]
    every_fold = [fold for folds in cuts for fold in folds]
    every_ranks = iter(fold_ranks(scores, to_text, to_image, every_fold, left_out=approximate is not None))
    measured = []
    for protocol, folds in zip(protocols, cuts, strict=True):
        ranks = [next(every_ranks) for _ in folds]
        metrics = _metrics(folds, ranks).model_copy(
            update={
                "protocol": protocol,
                "split_images": images,
                "approximate": approximate,
                "positives": None if positives is None else _ground_truth(positives, ranks),
            }
        )
        if intervals:
            ends = recall_intervals(folds, ranks, caption_image, RECALL_DEPTHS)
            metrics = metrics.model_copy(update={"intervals": dict(zip(metrics.flat(), ends, strict=True))})
        measured.append(metrics)
    return measured


def _metrics(folds: list[Fold], ranks: list[Ranks]) -> RetrievalMetrics:
    for fold, found in zip(folds, ranks, strict=True):
        if not len(found.rows) or not len(found.columns):
            raise InputError(
                f"image rows {fold.rows.start} to {fold.rows.stop - 1} hold no query of the ground truth in one "
                "direction or both; take larger folds, or check that the ground truth is of these images"
            )
    to_text, to_image = [found.image_to_text for found in ranks], [found.text_to_image for found in ranks]
    return RetrievalMetrics(
        images=sum(len(fold.rows) for fold in folds),
        captions=sum(len(fold.columns) for fold in folds),
        image_to_text_recall={k: _mean((found <= k).mean() for found in to_text) for k in RECALL_DEPTHS},
        text_to_image_recall={k: _mean((found <= k).mean() for found in to_image) for k in RECALL_DEPTHS},
        image_to_text_median_rank=_mean(np.median(found) for found in to_text),
        text_to_image_median_rank=_mean(np.median(found) for found in to_image),
        image_to_text_mean_rank=_mean(found.mean() for found in to_text),
        text_to_image_mean_rank=_mean(found.mean() for found in to_image),
        folds=len(folds),
    )


def _ground_truth(positives: Positives, ranks: list[Ranks]) -> str:
    images, captions = sum(len(found.rows) for found in ranks), sum(len(found.columns) for found in ranks)
    unscored = f", {positives.unscored:,} true pairs not scored" if positives.unscored else ""
    return f"{positives.name} ({images:,} image and {captions:,} caption queries{unscored})"


def _mean(values: Iterable[np.floating]) -> float:
    return float(np.mean(list(values)))


def _check_captions(images: int, captions: int, caption_image: Index) -> None:
    if not captions:
        raise InputError("no caption was scored, so there is no recall; score data that has captions")
    if len(caption_image) != captions:
        raise InputError(f"{captions:,} columns of scores but {len(caption_image):,} captions; score the data again")
    if len(outside := caption_image[(caption_image < 0) | (caption_image >= images)]):
        raise InputError(f"a caption belongs to image row {outside[0]} of {images:,}; score the data again")
    has_caption = np.bincount(caption_image, minlength=images) > 0
    if not has_caption.all():
        row = int(np.argmin(has_caption))
        raise InputError(f"image row {row} has no caption, so no model could ever find one for it; leave it out")
