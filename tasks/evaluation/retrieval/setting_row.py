"""One row of the recall table, for flows, pages and terminals."""

from __future__ import annotations

from pydantic import Field

from model.downstream.retrieval.measures import Direction, measured
from model.downstream.retrieval.metrics import RetrievalMetrics
from model.downstream.retrieval.positives_metrics import PositivesMetrics
from tasks.records import HistoryRow, Record

_SHARED = (
    "images",
    "captions",
    "protocol",
    "folds",
    "split_images",
    "positives",
    "approximate",
    "intervals",
    "image_to_text_median_rank",
    "image_to_text_mean_rank",
    "text_to_image_median_rank",
    "text_to_image_mean_rank",
)
"""Fields that RetrievalMetrics has by the same names."""


class SettingRow(Record):
    """One row of the recall table. Recalls are fractions; the page shows percent."""

    setting: str = Field(description="chance, zero-shot, task-specific, pretrain+finetune, ...")
    image_to_text: dict[int, float] = Field(description="k -> recall@k of images that look for a caption")
    text_to_image: dict[int, float] = Field(description="k -> recall@k of captions that look for their image")
    images: int = Field(description="that the protocol measured")
    captions: int = Field(description="that the protocol measured")
    seed: int | None = Field(description="of the training run; None where nothing was trained")
    protocol: str = Field(
        default="all", description="all, first:N or folds:N, see model/downstream/retrieval/protocols.py"
    )
    folds: int = Field(default=1, description="recalls and ranks are means over so many folds")
    split_images: int | None = Field(default=None, description="scored, whether measured or not; None: not known")
    positives: str | None = Field(
        default=None, description="the ground truth; None: a caption is true for the image it was written for"
    )
    approximate: str | None = Field(default=None, description="what was left out; None: every pair was scored")
    intervals: dict[str, tuple[float, float]] | None = Field(
        default=None,
        description="95% bootstrap intervals by name: image_to_text_r1, ..., text_to_image_r10, recall_sum",
    )
    image_to_text_median_rank: float | None = Field(default=None, description="1 is best")
    image_to_text_mean_rank: float | None = Field(default=None, description="1 is best")
    text_to_image_median_rank: float | None = Field(default=None, description="1 is best")
    text_to_image_mean_rank: float | None = Field(default=None, description="1 is best")
    image_to_text_map_at_r: float | None = Field(
        default=None, description="with positives: see model.downstream.retrieval.precision_at_r"
    )
    image_to_text_r_precision: float | None = Field(default=None, description="with positives")
    text_to_image_map_at_r: float | None = Field(default=None, description="with positives")
    text_to_image_r_precision: float | None = Field(default=None, description="with positives")

    def recalls(self, direction: Direction) -> dict[int, float]:
        return self.image_to_text if direction == "image_to_text" else self.text_to_image

    @property
    def recall_sum(self) -> float:
        """The sum over both directions and all depths: 6 where all is found at once and the depths are 1, 5 and 10."""
        return sum(self.image_to_text.values()) + sum(self.text_to_image.values())


def setting_rows(row: HistoryRow) -> list[SettingRow]:
    """An evaluation's rows of the table: one for each protocol, the main one first.

    Raises:
        ValidationError: the row's metrics are not those of retrieval.
    """
    return [_row(row, metrics) for metrics in measured(row.metrics)]


def positives_row(row: HistoryRow, found: PositivesMetrics) -> SettingRow:
    """An evaluation's row by another ground truth."""
    shown = _row(row, found.recall)
    values = {name: getattr(found, name) for name in found.intervals}
    return shown.model_copy(update={**values, "intervals": {**(shown.intervals or {}), **found.intervals}})


def _row(row: HistoryRow, metrics: RetrievalMetrics) -> SettingRow:
    return SettingRow(
        setting=row.setting,
        image_to_text=metrics.image_to_text_recall,
        text_to_image=metrics.text_to_image_recall,
        seed=row.seed,
        **{name: getattr(metrics, name) for name in _SHARED},
    )
