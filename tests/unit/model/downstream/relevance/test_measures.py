"""ROC AUC by hand and by a slow twin, its interval by a slow bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from model.downstream.bootstrap import SEED, drawn_times
from model.downstream.relevance.auc import auc_interval, roc_auc
from model.downstream.relevance.measures import Advertisement, relevance_figures


def slow_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = [(high, low) for high in scores[labels] for low in scores[~labels]]
    return float(np.mean([1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs]))


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([1, 1, 0, 0], [0.9, 0.4, 0.4, 0.1], 0.875),
        ([1, 0], [0.5, 0.5], 0.5),
        ([1, 1, 1, 0, 0], [0.8, 0.8, 0.3, 0.8, 0.1], 2 / 3),
        ([0, 1, 0, 1, 1, 0], [1, 2, 2, 3, 2, 0], 8 / 9),
        ([1, 0, 1, 0], [7, 7, 7, 7], 0.5),
    ],
)
def test_worked_areas(labels: list[int], scores: list[float], expected: float) -> None:
    assert roc_auc(np.array(labels, bool), np.array(scores, np.float64)) == pytest.approx(expected)


def test_area_and_interval_are_those_of_slow_twins() -> None:
    random = np.random.default_rng(2)
    labels, scores = random.random(60) < 0.4, random.integers(8, size=60).astype(np.float64)
    images = random.integers(25, size=60)
    _, images = np.unique(images, return_inverse=True)
    assert roc_auc(labels, scores) == pytest.approx(slow_auc(labels, scores))
    areas = []
    for times in np.concatenate(list(drawn_times(int(images.max()) + 1, np.random.default_rng(SEED))))[:1000]:
        rows = np.repeat(np.arange(60), times[images].astype(int))
        areas.append(slow_auc(labels[rows], scores[rows]))
    assert auc_interval(labels, scores, images) == pytest.approx(tuple(np.percentile(areas, (2.5, 97.5))))


def test_one_class_has_no_area() -> None:
    assert np.isnan(roc_auc(np.array([True, True]), np.array([1.0, 2.0])))
    with pytest.raises(ValueError, match="all 2 pairs are relevant, so the area"):
        relevance_figures([Advertisement("1", "a", True), Advertisement("2", "b", True)], {"1": 1, "2": 2})


def test_resamples_of_one_class_do_not_count() -> None:
    pairs = [Advertisement("1", "a", True), Advertisement("2", "b", False)]
    found = relevance_figures(pairs, {"1": 1.0, "2": 0.0})
    assert found.figures["auc"].value == 1.0 and found.figures["auc"].interval == (1.0, 1.0)
    alone = relevance_figures([Advertisement("1", "a", True), Advertisement("2", "a", False)], {"1": 0.0, "2": 0.0})
    assert alone.figures["auc"].value == 0.5 and alone.images == 1
