"""Retrieval's measures: recall at each depth, both ways, and their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from model.downstream.measures import Measure, Measured, MeasuredTask, TaskMeasures
from model.downstream.retrieval.config import FinetuneConfig
from model.downstream.retrieval.metrics import RECALL_DEPTHS, RetrievalMetrics, protocol_text

Direction = Literal["image_to_text", "text_to_image"]

DIRECTIONS: tuple[tuple[Direction, str], ...] = (
    ("image_to_text", "image-to-text"),
    ("text_to_image", "text-to-image"),
)

_RECALL_RULE = "Recall@k in percent; a query ranks every candidate, and ties count against it."
_RANK_RULE = "Median and mean are of ranks: 1 is best."
_PRECISION_RULE = (
    "Of a query with R true candidates, R-P is the share of true ones among its R best; mAP@R is the mean over queries "
    "of the sum of precisions at the true ones among these, divided by R."
)
_SHORT = {"image_to_text": "i2t", "text_to_image": "t2i"}
_PRECISIONS = {"map_at_r": "mAP@R", "r_precision": "R-P"}

RECALL_SUM = Measure(name="recall_sum", label="recall sum", head="sum", short="sum")
MEAN_RECALL = Measure(name="mean_recall", label="mean recall")
"""The recall sum over the number of recalls in it."""

_NOT_MEASURED = ("format", "data", "precision", "also")


def recall_at(direction: Direction, k: int) -> Measure:
    return _measure(direction, f"r{k}", f"R@{k}", rule=_RECALL_RULE)


def mean_recall_of(direction: Direction) -> Measure:
    """Mean of one direction's recalls, as some papers print it."""
    return _measure(direction, "mean_recall", "mean")


def rank_of(direction: Direction, kind: Literal["median", "mean"]) -> Measure:
    """Median or mean rank; the mean, which pages have, brings the rule of both."""
    return _measure(
        direction,
        f"{kind}_rank",
        kind,
        unit="number",
        higher_is_better=False,
        shown="tables" if kind == "median" else "pages",
        rule=_RANK_RULE if kind == "mean" else "",
    )


def precision_of(direction: Direction, kind: Literal["map_at_r", "r_precision"]) -> Measure:
    return _measure(direction, kind, _PRECISIONS[kind], rule=_PRECISION_RULE)


def _measure(direction: Direction, name: str, head: str, **others: Any) -> Measure:
    label = dict(DIRECTIONS)[direction]
    return Measure(
        name=f"{direction}_{name}",
        label=f"{label} {head}",
        group=label,
        head=head,
        short=f"{_SHORT[direction]} {head}",
        **others,
    )


def retrieval_measures(metrics: RetrievalMetrics) -> TaskMeasures:
    """Every recall with its interval, the recall sum, and the mean recall."""
    intervals = metrics.intervals or {}
    by_direction: dict[Direction, dict[int, float]] = {
        "image_to_text": metrics.image_to_text_recall,
        "text_to_image": metrics.text_to_image_recall,
    }
    recalls = [
        (recall_at(direction, k), recall)
        for direction, of_direction in by_direction.items()
        for k, recall in of_direction.items()
    ]
    mean = metrics.recall_sum / max(len(recalls), 1)
    return TaskMeasures(
        task=TASK.name,
        protocol=protocol_text(metrics),
        qualifier=_qualifier(metrics),
        examples=metrics.images + metrics.captions,
        measured=tuple(
            Measured(measure=measure, value=value, interval=intervals.get(measure.name))
            for measure, value in (*recalls, (RECALL_SUM, metrics.recall_sum), (MEAN_RECALL, mean))
        ),
    )


def _qualifier(metrics: RetrievalMetrics) -> str:
    protocol = "" if metrics.protocol == "all" else metrics.protocol
    return f"{protocol} approximate".strip() if metrics.approximate else protocol


def measured(metrics: Mapping[str, Any]) -> list[RetrievalMetrics]:
    """The measures in a metrics.json or a row's `metrics`: one for each protocol, the main one first.

    Raises:
        ValidationError: these are no metrics of retrieval.
    """
    main = {name: value for name, value in metrics.items() if name not in _NOT_MEASURED}
    return [RetrievalMetrics.model_validate(one) for one in (main, *metrics.get("also", ()))]


def _read(metrics: Mapping[str, Any]) -> list[TaskMeasures]:
    return [retrieval_measures(one) for one in measured(metrics)]


TASK = MeasuredTask(
    name="retrieval",
    subject="recall",
    main=RECALL_SUM,
    brief=(recall_at("image_to_text", 1), recall_at("text_to_image", 1)),
    read=_read,
    watched=MEAN_RECALL,
    brief_label="recall@1",
    others=tuple(recall_at(direction, k) for direction, _ in DIRECTIONS for k in RECALL_DEPTHS),
    short_rule=_RECALL_RULE.replace("percent", "percent, i2t image-to-text, t2i text-to-image"),
    config=FinetuneConfig,
    trained_by="model.downstream.retrieval.task",
    series_name="recall_sums",
)
