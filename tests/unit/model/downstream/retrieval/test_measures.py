"""Retrieval tells every recall with its interval, their sum, and the mean that a fall is told by."""

from __future__ import annotations

import pytest

from model.downstream.retrieval.measures import MEAN_RECALL, RECALL_SUM, TASK, measured, recall_at, retrieval_measures
from model.downstream.retrieval.metrics import RetrievalMetrics

METRICS = RetrievalMetrics(
    images=4,
    captions=20,
    image_to_text_recall={1: 0.25, 5: 0.5, 10: 1.0},
    text_to_image_recall={1: 0.125, 5: 0.5, 10: 0.875},
    image_to_text_median_rank=3,
    text_to_image_median_rank=4,
    intervals={"text_to_image_r1": (0.0, 0.25), "recall_sum": (3.0, 3.5)},
)


def test_recalls_their_sum_and_their_mean() -> None:
    found = retrieval_measures(METRICS)
    assert [(one.measure.label, one.value) for one in found.measured] == [
        ("image-to-text R@1", 0.25),
        ("image-to-text R@5", 0.5),
        ("image-to-text R@10", 1.0),
        ("text-to-image R@1", 0.125),
        ("text-to-image R@5", 0.5),
        ("text-to-image R@10", 0.875),
        ("recall sum", 3.25),
        ("mean recall", pytest.approx(3.25 / 6)),
    ]
    intervals = {one.measure.name: one.interval for one in found.measured if one.interval}
    assert intervals == {"text_to_image_r1": (0.0, 0.25), "recall_sum": (3.0, 3.5)}
    assert found.protocol == "4 images x 20 captions"
    assert (TASK.main, TASK.watch) == (RECALL_SUM, MEAN_RECALL)
    assert TASK.brief == (recall_at("image_to_text", 1), recall_at("text_to_image", 1))


@pytest.mark.parametrize(
    ("changes", "qualifier"),
    [
        ({}, ""),
        ({"protocol": "folds:2"}, "folds:2"),
        ({"approximate": "the best 10"}, "approximate"),
        ({"protocol": "first:2", "approximate": "the best 10"}, "first:2 approximate"),
    ],
)
def test_another_protocol_has_a_word(changes: dict[str, str], qualifier: str) -> None:
    assert retrieval_measures(METRICS.model_copy(update=changes)).qualifier == qualifier


def test_metrics_of_a_row_are_read_by_protocol() -> None:
    folds = METRICS.model_copy(update={"protocol": "folds:2", "folds": 2})
    row = {**METRICS.model_dump(mode="json"), "format": "scores/1", "also": [folds.model_dump(mode="json")]}
    assert measured(row) == [METRICS, folds]
    assert [one.qualifier for one in TASK.measures(row)] == ["", "folds:2"]
