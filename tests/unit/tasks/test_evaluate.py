"""Chance is exact; an evaluation is named by weights and data."""

from __future__ import annotations

from itertools import permutations

import pytest

from tasks.evaluate import chance_row, table_row
from tasks.records import HistoryRow


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


@pytest.mark.parametrize("counts", [[], [5, 0]])
def test_chance_needs_captions(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="every image needs a caption"):
        chance_row(counts)


def test_table_row_reads_the_metrics_of_the_model_room() -> None:
    row = HistoryRow(
        setting="zero-shot",
        run="pretrain-1",
        dataset="retrieval",
        split="test",
        seed=3,
        metrics={
            "images": 2,
            "captions": 10,
            "image_to_text_recall": {"1": 0.5, "5": 1.0, "10": 1.0},
            "text_to_image_recall": {"1": 0.1, "5": 1.0, "10": 1.0},
            "text_to_image_median_rank": 2.0,
        },
        checkpoint_fingerprint="c",
        data_fingerprint="d",
        code_version="1",
        created_at="2026-01-01T00:00:00+00:00",
    )
    shown = table_row(row)
    assert shown.image_to_text == {1: 0.5, 5: 1.0, 10: 1.0}
    assert (shown.text_to_image[1], shown.images, shown.captions, shown.seed) == (0.1, 2, 10, 3)
