from __future__ import annotations

from typing import Any

import pytest

from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.retrieval.retrieval import published_beside, retrieval_section


def row(images: int, **changes: Any) -> SettingRow:
    fields: dict[str, Any] = {"setting": "zero-shot", "image_to_text": {1: 0.5}, "text_to_image": {1: 0.4}, "seed": 0}
    return SettingRow.model_validate({**fields, "images": images, "captions": 5 * images, **changes})


@pytest.mark.parametrize(
    ("dataset", "ours", "theirs"),
    [
        ("flickr30k", row(1000), ("flickr30k", "1K")),
        ("Flickr30K-karpathy", row(1000), ("flickr30k", "1K")),
        ("coco", row(5000), ("coco", "5K")),
        ("ms-coco", row(5000, protocol="folds:1000", folds=5), ("coco", "1K")),
        ("coco", row(1000, protocol="first:1000", split_images=5000), ("coco", "1K")),
    ],
)
def test_rows_of_the_same_test_set_and_size_are_found(dataset: str, ours: SettingRow, theirs: tuple[str, str]) -> None:
    found = published_beside(ours, dataset, "test")
    assert {(published.dataset, published.protocol) for published in found} == {theirs}


@pytest.mark.parametrize(
    ("dataset", "split", "ours"),
    [
        ("flickr8k", "test", row(1000)),
        ("flickr30k", "val", row(1000)),
        ("flickr30k", "test", row(100)),
        ("coco", "test", row(5000, positives="ECCV Caption")),
        ("my-coco-like", "test", row(5000)),
    ],
)
def test_other_data_has_nothing_published_beside_it(dataset: str, split: str, ours: SettingRow) -> None:
    assert published_beside(ours, dataset, split) == []


def test_other_data_is_said_not_to_be_compared() -> None:
    html = retrieval_section([[row(100)]], "retrieval", "test")
    assert "not to be compared with the tables above" in html
    assert "What papers print on Flickr30K" in html


def test_the_same_data_needs_no_such_note() -> None:
    html = retrieval_section([[row(1000)]], "flickr30k", "test")
    assert "orientation" not in html
    assert html.count("Unicoder-VL, AAAI version, zero-shot") == 1


def test_protocols_have_tables_of_their_own() -> None:
    html = retrieval_section([[row(5000)], [row(5000, protocol="folds:1000", folds=5)]], "coco", "test")
    assert html.count("<table") == 2
    assert "<h3>5,000 images x 25,000 captions</h3>" in html
    assert "<h3>Mean of 5 folds of 1,000 images (25,000 captions in all)</h3>" in html


def test_nothing_evaluated_is_said() -> None:
    assert retrieval_section([[]], "coco", "test").strip() == "<p>No evaluation yet.</p>"
