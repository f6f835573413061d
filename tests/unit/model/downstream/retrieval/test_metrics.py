"""Metrics of matrices that were worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.downstream.retrieval.metrics import RetrievalMetrics, measure, protocol_text, retrieval_metrics
from model.downstream.retrieval.positives import Positives
from model.downstream.retrieval.ranks import Pairs
from model.downstream.retrieval.scores import Plan, Scores, WholeMatrix, begin_scores, write_block
from model.errors import InputError


def test_metrics_of_both_directions_by_hand() -> None:
    # Two images, three captions; captions 0 and 1 are image 0's.
    scores = np.array([[3.0, 0.0, 2.0], [1.0, 5.0, 4.0]], np.float32)
    metrics = retrieval_metrics(WholeMatrix(scores), np.array([0, 0, 1]))
    # Image 0: best caption 0 (3.0) is its own. Image 1: caption 1 (5.0) beats its own (4.0).
    assert metrics.image_to_text_recall == {1: 0.5, 5: 1.0, 10: 1.0}
    # Caption 0: image 0 wins. Caption 1: image 1 wins, wrong. Caption 2: image 1 wins.
    assert metrics.text_to_image_recall == pytest.approx({1: 2 / 3, 5: 1.0, 10: 1.0})
    assert metrics.image_to_text_median_rank == 1.5
    assert metrics.image_to_text_mean_rank == 1.5
    assert metrics.text_to_image_median_rank == 1.0
    assert metrics.text_to_image_mean_rank == pytest.approx(4 / 3)
    assert metrics.flat()["recall_sum"] == pytest.approx(0.5 + 1 + 1 + 2 / 3 + 1 + 1)
    assert (metrics.images, metrics.captions, metrics.folds, metrics.split_images) == (2, 3, 1, 2)
    assert metrics.intervals is None


def five_captions() -> tuple[np.ndarray, np.ndarray]:
    """Three images of five captions, one of six, one of one; the columns are not in the order of the images.

    Of image i, captions score 10 - i with their own image, and 7 with every other one.
    """
    caption_image = np.array([4, 0, 1, 2, 3] + [0, 1, 2, 3] * 4 + [3])
    scores = np.full((5, len(caption_image)), 7, np.float32)
    scores[caption_image, np.arange(len(caption_image))] = 10 - caption_image
    return scores, caption_image


def test_images_of_one_and_five_and_six_captions_and_ties_by_hand() -> None:
    scores, caption_image = five_captions()
    metrics = retrieval_metrics(WholeMatrix(scores), caption_image)
    assert (metrics.images, metrics.captions) == (5, 22)
    # Images 0, 1, 2 are first. Image 3's captions tie with the 16 of others: rank 17. Image 4's one loses to 21: 22.
    assert metrics.image_to_text_recall == {1: 3 / 5, 5: 3 / 5, 10: 3 / 5}
    assert metrics.image_to_text_median_rank == 1
    assert metrics.image_to_text_mean_rank == pytest.approx((1 + 1 + 1 + 17 + 22) / 5)
    # The 15 captions of images 0, 1, 2 are first; the six of image 3 tie with four images, image 4's loses to four.
    assert metrics.text_to_image_recall == pytest.approx({1: 15 / 22, 5: 1.0, 10: 1.0})
    assert metrics.text_to_image_mean_rank == pytest.approx((15 * 1 + 7 * 5) / 22)
    assert metrics.text_to_image_median_rank == 1


def test_candidates_of_a_fold_are_its_own_by_hand() -> None:
    scores, caption_image = five_captions()
    first, folds = measure(WholeMatrix(scores), caption_image, ["first:4", "folds:2"])
    # The first four images and their 21 captions: image 3 still ties with the 15 captions of others.
    assert (first.images, first.captions, first.folds, first.split_images) == (4, 21, 1, 5)
    assert first.image_to_text_recall[5] == 3 / 4
    assert first.image_to_text_mean_rank == pytest.approx((1 + 1 + 1 + 16) / 4)
    assert first.image_to_text_median_rank == 1
    assert first.text_to_image_mean_rank == pytest.approx((15 * 1 + 6 * 4) / 21)
    # round(5 / 2) = 2 folds: images 0, 1, 2 with 15 captions, all first; images 3 and 4 with seven. There image 3 ties
    # with one caption (rank 2), image 4 loses to six (rank 7); all seven captions lose to the other image (rank 2).
    assert (folds.images, folds.captions, folds.folds) == (5, 22, 2)
    assert folds.image_to_text_recall == {1: 0.5, 5: (1 + 0.5) / 2, 10: 1.0}
    assert folds.image_to_text_mean_rank == folds.image_to_text_median_rank == (1 + 4.5) / 2
    assert folds.text_to_image_recall == {1: 0.5, 5: 1.0, 10: 1.0}
    assert folds.text_to_image_median_rank == folds.text_to_image_mean_rank == (1 + 2) / 2


def test_measuring_protocols_together_or_alone_is_the_same() -> None:
    random = np.random.default_rng(0)
    caption_image = random.permutation(np.concatenate([np.arange(23), random.integers(0, 23, 50)]))
    scores = WholeMatrix(random.integers(0, 20, (23, 73)).astype(np.float32))
    protocols = ["folds:5", "all", "first:9", "folds:23"]
    together = measure(scores, caption_image, protocols)
    assert [metrics.protocol for metrics in together] == protocols
    for metrics in together:
        assert metrics.intervals is not None
        assert list(metrics.intervals) == list(metrics.flat())
        for name, value in metrics.flat().items():
            low, high = metrics.intervals[name]
            assert low <= value <= high
        alone = retrieval_metrics(scores, caption_image, metrics.protocol)
        assert metrics.model_copy(update={"intervals": None}) == alone
    assert together[1].model_copy(update={"protocol": "folds:23"}) == together[3]


def test_scores_on_disk_measure_as_those_in_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    matrix = random.normal(size=(11, 30)).astype(np.float32)
    caption_image = np.sort(np.concatenate([np.arange(11), random.integers(0, 11, 19)]))
    plan = Plan(images=11, captions=30, rows=4, identity={})
    begin_scores(
        tmp_path, plan, [f"k{row}" for row in range(11)], [f"c{column}" for column in range(30)], caption_image
    )
    for block in range(plan.blocks):
        write_block(tmp_path, plan, block, matrix[list(plan.rows_of(block))])
    scores, protocols = Scores(tmp_path), ["all", "folds:4"]
    assert measure(scores, scores.caption_image, protocols) == measure(WholeMatrix(matrix), caption_image, protocols)


def test_what_a_shortlist_left_out_counts_as_not_found_and_is_said() -> None:
    scores = np.full((20, 20), -np.inf, np.float32)
    scores[np.arange(10), np.arange(10)] = 0
    metrics = measure(WholeMatrix(scores), np.arange(20), ["all"], approximate="the best 3 alone")[0]
    assert metrics.image_to_text_recall == metrics.text_to_image_recall == {1: 0.5, 5: 0.5, 10: 0.5}
    assert metrics.text_to_image_mean_rank == (10 * 1 + 10 * 20) / 20
    assert protocol_text(metrics) == "20 images x 20 captions; approximate: the best 3 alone"
    with pytest.raises(InputError, match="image row 0 with caption column 1 is -inf"):
        measure(WholeMatrix(scores), np.arange(20), ["all"])


def test_other_true_pairs_than_an_image_and_its_captions() -> None:
    # Three images with a caption each. Caption 2 is also true of image 0, and is no query; image 1 is none, either.
    scores = np.array([[1, 0, 5], [0, 2, 0], [9, 0, 3]], np.float32)
    extended = Positives("extended", Pairs(np.array([0, 0, 2]), np.array([0, 2, 2])), Pairs(np.arange(2), np.arange(2)))
    metrics = retrieval_metrics(WholeMatrix(scores), np.arange(3), positives=extended)
    # Image 0 finds caption 2; image 2 finds caption 0, wrong. Caption 0 finds image 2, wrong; caption 1 its own.
    assert metrics.image_to_text_recall[1] == 0.5
    assert metrics.text_to_image_recall[1] == 0.5
    text = "3 images x 3 captions; ground truth: extended (2 image and 2 caption queries)"
    assert protocol_text(metrics) == text
    with pytest.raises(InputError, match="image rows 1 to 1 hold no query of the ground truth"):
        measure(WholeMatrix(scores), np.arange(3), ["folds:1"], positives=extended)


def test_metrics_of_an_older_program_are_still_read() -> None:
    older = {
        "images": 100,
        "captions": 500,
        "image_to_text_recall": {"1": 0.5, "5": 0.6, "10": 0.7},
        "text_to_image_recall": {"1": 0.4, "5": 0.5, "10": 0.6},
        "image_to_text_median_rank": 1.5,
        "text_to_image_median_rank": 2.0,
    }
    metrics = RetrievalMetrics.model_validate(older)
    assert protocol_text(metrics) == "100 images x 500 captions"
    assert metrics.image_to_text_mean_rank is None


def test_metrics_survive_json() -> None:
    scores, caption_image = five_captions()
    for metrics in measure(WholeMatrix(scores), caption_image, ["all", "folds:2"]):
        assert RetrievalMetrics.model_validate_json(metrics.model_dump_json()) == metrics


@pytest.mark.parametrize(
    ("caption_image", "message"),
    [
        ([0, 0, 2], "image row 1 has no caption"),
        ([0, 1, 3], "a caption belongs to image row 3 of 3"),
        ([0, 1, -1], "a caption belongs to image row -1 of 3"),
        ([0, 1], "3 columns of scores but 2 captions"),
    ],
)
def test_captions_that_do_not_fit_the_scores_are_an_error(caption_image: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        retrieval_metrics(WholeMatrix(np.zeros((3, 3), np.float32)), np.array(caption_image))


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InputError, match="no caption was scored"):
        retrieval_metrics(WholeMatrix(np.zeros((0, 0), np.float32)), np.zeros(0, np.int64))
