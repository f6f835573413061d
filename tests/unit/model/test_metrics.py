import numpy as np
import pytest

from model.metrics import best_ranks, recall_at_k, retrieval_metrics


def test_recall_by_hand_with_several_true_captions():
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.9, 0.2, 0.3, 0.1]], np.float32)
    correct = [{1, 2}, {2, 3}]
    assert best_ranks(scores, correct).tolist() == [2, 2]
    assert recall_at_k(scores, correct, 1) == 0.0
    assert recall_at_k(scores, correct, 2) == 1.0


def test_a_true_match_does_not_stand_in_the_way_of_another():
    assert best_ranks(np.array([[0.9, 0.8, 0.1]], np.float32), [{0, 1}]).tolist() == [1]


def test_ties_count_against_us():
    flat = np.zeros((3, 3), np.float32)
    correct = [{0}, {1}, {2}]
    assert recall_at_k(flat, correct, 1) == 0.0
    assert recall_at_k(flat, correct, 2) == 0.0
    assert recall_at_k(flat, correct, 3) == 1.0


def test_metrics_of_both_directions_by_hand():
    # two images, three captions; captions 0 and 1 are image 0's
    scores = np.array([[3.0, 0.0, 2.0], [1.0, 5.0, 4.0]], np.float32)
    metrics = retrieval_metrics(scores, np.array([0, 0, 1]))
    # image 0: best caption 0 (3.0) is its own. image 1: caption 1 (5.0) beats its own (4.0)
    assert metrics.image_to_text_recall == {1: 0.5, 5: 1.0, 10: 1.0}
    # caption 0: image 0 wins. caption 1: image 1 wins, wrong. caption 2: image 1 wins
    assert metrics.text_to_image_recall == pytest.approx({1: 2 / 3, 5: 1.0, 10: 1.0})
    assert metrics.image_to_text_median_rank == 1.5
    assert metrics.text_to_image_median_rank == 1.0
    assert metrics.flat()["recall_sum"] == pytest.approx(0.5 + 1 + 1 + 2 / 3 + 1 + 1)


def test_ranks_equal_a_full_sort_on_random_scores():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 50)).astype(np.float32)
    correct = [set(rng.choice(50, size=int(rng.integers(1, 7)), replace=False).tolist()) for _ in range(20)]
    for row, columns, rank in zip(scores, correct, best_ranks(scores, correct), strict=True):
        order = [int(c) for c in np.argsort(-row)]
        wrong_before_first_hit = next(place for place, c in enumerate(order) if c in columns)
        assert rank == wrong_before_first_hit + 1


def test_a_query_without_a_true_match_and_a_broken_score_are_errors():
    with pytest.raises(ValueError, match="query 1 has no true match"):
        best_ranks(np.zeros((2, 2), np.float32), [{0}, set()])
    with pytest.raises(ValueError, match="not finite"):
        best_ranks(np.array([[np.nan]], np.float32), [{0}])
