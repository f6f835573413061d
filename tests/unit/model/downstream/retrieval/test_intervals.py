"""Bootstrap intervals against a slow loop, and against what is known of recalls that are coin flips."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from model.downstream.bootstrap import RESAMPLES
from model.downstream.retrieval.intervals import image_counts, recall_intervals, resampled_recall
from model.downstream.retrieval.ranks import Fold, Ranks
from model.downstream.retrieval.scores import Index

DEPTHS = (1, 5, 10)


def ranks_of(fold: Fold, image_ranks: npt.ArrayLike, caption_ranks: npt.ArrayLike) -> Ranks:
    return Ranks(np.array(fold.rows), np.asarray(image_ranks), fold.columns, np.asarray(caption_ranks))


def coin_ranks(random: np.random.Generator, images: int, share: float) -> tuple[Fold, Ranks, Index]:
    """One caption an image; a query is first with that probability, and else last."""
    fold = Fold(range(images), np.arange(images))
    first = np.where(random.random((2, images)) < share, 1, images)
    return fold, ranks_of(fold, *first), np.arange(images)


def test_counts_of_an_image_by_hand() -> None:
    # The second fold of a split: images 3 and 4; captions 6 and 9 are of image 3, caption 7 of image 4.
    fold = Fold(range(3, 5), np.array([6, 7, 9]))
    caption_image = np.array([0, 1, 2, 0, 1, 2, 3, 4, 0, 3])
    hits, queries = image_counts(fold, ranks_of(fold, [1, 6], [5, 11, 10]), caption_image, DEPTHS)
    assert hits.tolist() == [[[1, 1, 1], [0, 1, 2]], [[0, 0, 1], [0, 0, 0]]]
    assert queries.tolist() == [[1, 2], [1, 1]]


@pytest.mark.parametrize("images", [7, 3000])
def test_resampling_equals_a_loop_that_draws_image_by_image(images: int) -> None:
    # 3,000 images are drawn in several goes.
    random = np.random.default_rng(1)
    captions = random.integers(1, 8, images)
    caption_image = np.repeat(np.arange(images), captions)
    fold = Fold(range(images), np.arange(len(caption_image)))
    ranks = ranks_of(fold, random.integers(1, 15, images), random.integers(1, 15, len(caption_image)))
    drawn = resampled_recall(*image_counts(fold, ranks, caption_image, DEPTHS), np.random.default_rng(5))
    loop = np.random.default_rng(5)
    captions_of = np.split(ranks.text_to_image, np.cumsum(captions)[:-1])
    for resample in range(RESAMPLES):
        chosen = loop.integers(images, size=images)
        if resample % (1 + images // 50):
            continue
        texts = np.concatenate([captions_of[image] for image in chosen])
        expected = [[(found <= depth).mean() for depth in DEPTHS] for found in (ranks.image_to_text[chosen], texts)]
        np.testing.assert_allclose(drawn[resample], expected, rtol=1e-12)
    assert len(drawn) == RESAMPLES


def test_the_interval_of_coin_flips_is_the_binomial_one() -> None:
    fold, ranks, caption_image = coin_ranks(np.random.default_rng(0), 1000, 0.4)
    intervals = recall_intervals([fold], [ranks], caption_image, DEPTHS)
    for found, (low, high) in zip(
        (ranks.image_to_text, ranks.text_to_image), (intervals[0], intervals[3]), strict=True
    ):
        recall = (found == 1).mean()
        half = 1.96 * (recall * (1 - recall) / 1000) ** 0.5
        assert (low, high) == pytest.approx((recall - half, recall + half), abs=0.1 * half)


def test_intervals_hold_the_true_recall_about_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(2), 0
    for _ in range(100):
        low, high = recall_intervals(*wrap(coin_ranks(random, 150, 0.7)), DEPTHS)[0]
        held += low <= 0.7 <= high
    # 95 are expected; 99 of 100 such counts lie in 89 to 100.
    assert held >= 89


def wrap(one: tuple[Fold, Ranks, Index]) -> tuple[list[Fold], list[Ranks], Index]:
    fold, ranks, caption_image = one
    return [fold], [ranks], caption_image


def test_captions_that_are_right_together_do_not_narrow_the_interval() -> None:
    images = 400
    fold = Fold(range(images), np.arange(5 * images))
    first = np.where(np.random.default_rng(3).random(images) < 0.5, 1, images)
    together = ranks_of(fold, first, np.repeat(first, 5))
    ends = recall_intervals([fold], [together], np.repeat(np.arange(images), 5), DEPTHS)
    assert ends[3] == pytest.approx(ends[0])
    apart = ranks_of(fold, first, np.random.default_rng(4).permutation(np.repeat(first, 5)))
    low, high = recall_intervals([fold], [apart], np.repeat(np.arange(images), 5), DEPTHS)[3]
    assert high - low < 0.6 * (ends[0][1] - ends[0][0])


def test_folds_are_drawn_each_for_itself_and_averaged() -> None:
    # All of the first fold is found and nothing of the second: however images are drawn within them, the mean is 1/2.
    folds = [Fold(range(40), np.arange(40)), Fold(range(40, 60), np.arange(40, 60))]
    ranks = [ranks_of(folds[0], np.ones(40), np.ones(40)), ranks_of(folds[1], np.full(20, 20), np.full(20, 20))]
    assert recall_intervals(folds, ranks, np.arange(60), DEPTHS) == [(0.5, 0.5)] * 6 + [(3.0, 3.0)]


def test_two_folds_halve_the_variance_of_one() -> None:
    # Folds that drew the same places would move together, and their mean as much as each.
    fold, ranks, _ = coin_ranks(np.random.default_rng(6), 500, 0.5)
    twin = Fold(range(500, 1000), np.arange(500, 1000))
    twin_ranks = ranks_of(twin, ranks.image_to_text, ranks.text_to_image)
    one = recall_intervals([fold], [ranks], np.arange(1000), DEPTHS)[0]
    both = recall_intervals([fold, twin], [ranks, twin_ranks], np.arange(1000), DEPTHS)[0]
    assert (both[1] - both[0]) / (one[1] - one[0]) == pytest.approx(0.5**0.5, abs=0.07)


def test_intervals_are_the_same_each_time() -> None:
    one = wrap(coin_ranks(np.random.default_rng(7), 60, 0.5))
    assert recall_intervals(*one, DEPTHS) == recall_intervals(*one, DEPTHS)
