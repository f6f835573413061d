"""Chance is exact."""

from __future__ import annotations

from itertools import permutations

import pytest

from tasks.evaluation.retrieval.chance import chance_row


def test_chance_by_hand() -> None:
    # Two images with one and two captions. The first finds its own among 3 in one of 3 draws, the second in two of 3.
    row = chance_row([1, 2])
    assert row.image_to_text == {1: pytest.approx((1 / 3 + 2 / 3) / 2), 5: 1, 10: 1}
    assert row.text_to_image == {1: 0.5, 5: 1, 10: 1}
    assert (row.setting, row.images, row.captions, row.seed) == ("chance", 2, 3, None)


def test_chance_of_five_captions_each() -> None:
    row = chance_row([5] * 100)
    assert row.image_to_text[1] == pytest.approx(5 / 500)
    misses = 1.0
    for drawn in range(5):  # none of the five true ones among five draws without replacement
        misses *= (495 - drawn) / (500 - drawn)
    assert row.image_to_text[5] == pytest.approx(1 - misses)
    assert row.text_to_image == {1: 0.01, 5: 0.05, 10: 0.1}


def test_chance_agrees_with_every_order_of_the_candidates() -> None:
    counts = [2, 1, 3]
    owners = [image for image, count in enumerate(counts) for _ in range(count)]
    orders = list(permutations(owners))
    found = [sum(image in order[:5] for order in orders) / len(orders) for image in range(len(counts))]
    assert chance_row(counts).image_to_text[5] == pytest.approx(sum(found) / 3)


def test_chance_of_a_part_is_that_of_its_images_alone() -> None:
    first = chance_row([1, 2, 5], "first:2")
    alone = chance_row([1, 2])
    assert (first.image_to_text, first.text_to_image) == (alone.image_to_text, alone.text_to_image)
    assert (first.images, first.captions, first.split_images) == (2, 3, 3)


def test_chance_of_folds_is_the_mean_over_them() -> None:
    counts = [1, 2, 5, 3, 1]
    row = chance_row(counts, "folds:2")  # round(5 / 2) folds, of 3 and 2 images
    folds = [chance_row(counts[:3]), chance_row(counts[3:])]
    for k in (1, 5, 10):
        assert row.image_to_text[k] == pytest.approx(sum(fold.image_to_text[k] for fold in folds) / 2)
        assert row.text_to_image[k] == pytest.approx(sum(fold.text_to_image[k] for fold in folds) / 2)
    assert row.text_to_image[1] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (row.protocol, row.folds, row.images, row.captions) == ("folds:2", 2, 5, 12)


@pytest.mark.parametrize("counts", [[], [5, 0]])
def test_chance_needs_captions(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="every image needs a caption"):
        chance_row(counts)
