"""R-Precision and mAP@R: by hand, against sorting and walking down a list, and whatever the blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from model.downstream.retrieval import precision_at_r
from model.downstream.retrieval.positives import Positives
from model.downstream.retrieval.positives_metrics import PositivesMetrics, measure_positives
from model.downstream.retrieval.precision_at_r import precisions
from model.downstream.retrieval.ranks import Numbers, Pairs
from model.downstream.retrieval.scores import WholeMatrix


def pairs(listed: list[tuple[int, int]]) -> Pairs:
    return Pairs(*np.array(listed, np.int64).reshape(-1, 2).T)


def of_rows(rows: list[list[float]], true: list[tuple[int, int]], lost: int = 0) -> tuple[list[float], list[float]]:
    """R-Precision and AP@R of image-to-text, and no more is asked of text-to-image than that it goes."""
    missing = tuple((true[0][0], 1_000 + number) for number in range(lost))
    positives = Positives("mine", pairs(true), pairs(true[:1]), unscored_captions=missing)
    found, _ = precisions(WholeMatrix(np.array(rows, np.float32)), positives)
    return found.r_precision.tolist(), found.average_precision.tolist()


def test_by_hand() -> None:
    # True ones come first, third and fifth of three that there are: two of the best three, precisions 1 and 2/3.
    assert of_rows([[5, 4, 3, 2, 1]], [(0, 0), (0, 2), (0, 4)]) == ([2 / 3], [pytest.approx((1 + 2 / 3) / 3)])
    # With one true candidate both are recall at 1.
    assert of_rows([[5, 4], [5, 4]], [(0, 0), (1, 1)]) == ([1, 0], [1, 0])
    # All true ones first.
    assert of_rows([[5, 4, 3]], [(0, 0), (0, 1)]) == ([1], [1])
    # The second best alone is true, of two: precision 1/2 there.
    assert of_rows([[4, 5, 3]], [(0, 0), (0, 2)]) == ([0.5], [0.25])


def test_a_wrong_candidate_of_the_same_score_comes_first() -> None:
    assert of_rows([[5, 5, 1]], [(0, 0), (0, 2)]) == ([0.5], [0.25])
    assert of_rows([[5, 5, 5]], [(0, 0), (0, 2)]) == ([0.5], [0.25])
    assert of_rows([[5, 5, 5, 5]], [(0, 0), (0, 2)]) == ([0], [0])
    # Equal scores of true ones among themselves cost nothing.
    assert of_rows([[5, 5, 1]], [(0, 0), (0, 1)]) == ([1], [1])


def test_what_was_not_scored_belongs_to_r_and_is_never_found() -> None:
    assert of_rows([[5, 4]], [(0, 0)], lost=1) == ([0.5], [0.5])
    assert of_rows([[4, 5]], [(0, 0)], lost=1) == ([0.5], [0.25])
    # Left out by a shortlist, even where fewer candidates than R are left.
    assert of_rows([[5, -np.inf]], [(0, 0), (0, 1)]) == ([0.5], [0.5])


class Blocks:
    """A matrix in blocks of two rows."""

    def __init__(self, scores: Numbers) -> None:
        self._scores = scores
        self.shape = scores.shape[0], scores.shape[1]

    def blocks(self) -> Iterator[tuple[int, Numbers]]:
        for start in range(0, len(self._scores), 2):
            yield start, self._scores[start : start + 2]


def walked(scores: Numbers, true: set[int], wanted: int) -> tuple[float, float]:
    """R-Precision and AP@R of one query: its candidates are sorted, wrong ones before true ones of the same score."""
    order = sorted(range(len(scores)), key=lambda candidate: (-scores[candidate], candidate in true))
    hits, total = 0, 0.0
    for k, candidate in enumerate(order[:wanted], start=1):
        if candidate in true:
            hits += 1
            total += hits / k
    return hits / wanted, total / wanted


@pytest.mark.parametrize("seed", range(8))
def test_both_directions_equal_sorting_and_walking(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_at_r, "COMPARED_AT_ONCE", 25)  # Pairs are compared in several pieces, too.
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (9, 20)).astype(np.float32)  # Many ties.
    truth = random.random(scores.shape) < 0.2
    truth[0], truth[:, 3] = False, False  # A row and a column that are no queries.
    reverse = truth & (random.random(scores.shape) < 0.8)
    lost = (int(np.flatnonzero(truth.any(1))[0]), 77)
    shuffled = random.permutation(np.argwhere(truth))
    positives = Positives(
        "mine", Pairs(*shuffled.T), Pairs(*np.argwhere(reverse).T), unscored_captions=(lost, (lost[0], 78))
    )
    to_text, to_image = precisions(Blocks(scores), positives)
    assert to_text.queries.tolist() == np.flatnonzero(truth.any(1)).tolist()
    assert to_image.queries.tolist() == np.flatnonzero(reverse.any(0)).tolist()
    for place, row in enumerate(to_text.queries.tolist()):
        true = set(np.flatnonzero(truth[row]).tolist())
        expected = walked(scores[row], true, len(true) + 2 * (row == lost[0]))
        assert (to_text.r_precision[place], to_text.average_precision[place]) == pytest.approx(expected)
    for place, column in enumerate(to_image.queries.tolist()):
        true = set(np.flatnonzero(reverse[:, column]).tolist())
        expected = walked(scores[:, column], true, len(true))
        assert (to_image.r_precision[place], to_image.average_precision[place]) == pytest.approx(expected)


def measured(scores: Numbers, true: list[tuple[int, int]]) -> PositivesMetrics:
    caption_image = np.arange(scores.shape[1]) // 2
    return measure_positives(WholeMatrix(scores), caption_image, Positives("mine", pairs(true), pairs(true)))


def test_metrics_are_means_over_queries_with_intervals_around_them() -> None:
    random = np.random.default_rng(1)
    scores = random.integers(0, 20, (30, 60)).astype(np.float32)
    true = [(image, caption) for image in range(30) for caption in (2 * image, 2 * image + 1, (2 * image + 5) % 60)]
    scores[tuple(np.array(true[::2]).T)] += 15
    metrics = measured(scores, true)
    assert (metrics.image_queries, metrics.caption_queries) == (30, 60)
    assert metrics.recall.positives == "mine (30 image and 60 caption queries)"
    assert set(metrics.intervals) == {
        f"{way}_{kind}" for way in ("image_to_text", "text_to_image") for kind in ("map_at_r", "r_precision")
    }
    for name, (low, high) in metrics.intervals.items():
        assert 0 < low < getattr(metrics, name) < high < 1
    assert metrics.image_to_text_map_at_r <= metrics.image_to_text_r_precision


def test_one_true_candidate_a_query_makes_all_of_them_recall_at_1() -> None:
    random = np.random.default_rng(2)
    scores = random.random((10, 20)).astype(np.float32)
    true = [(image, 2 * image) for image in range(10)]
    scores[tuple(np.array(true[:5]).T)] = 2
    metrics = measured(scores, true)
    assert metrics.image_to_text_map_at_r == metrics.image_to_text_r_precision == metrics.recall.image_to_text_recall[1]
    assert metrics.text_to_image_map_at_r == metrics.text_to_image_r_precision == metrics.recall.text_to_image_recall[1]
    assert metrics.recall.intervals is not None
    assert metrics.intervals["image_to_text_map_at_r"] == metrics.recall.intervals["image_to_text_r1"]
    assert metrics.intervals["text_to_image_r_precision"] == metrics.recall.intervals["text_to_image_r1"]
