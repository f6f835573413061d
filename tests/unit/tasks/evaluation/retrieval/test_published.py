from __future__ import annotations

from tasks.evaluation.retrieval.published import (
    AAAI,
    ABLATIONS,
    PUBLISHED,
    UNITER_BASE,
    V1,
    published_ablations,
    published_rows,
)


def test_sentence_retrieval_of_the_papers_is_image_to_text() -> None:
    # The abstract's 86.2 / 71.5 of the AAAI version: sentence retrieval first.
    (full,) = (
        row for row in published_rows("flickr30k", "1K") if (row.model, row.setting) == (AAAI, "pretrain+finetune")
    )
    assert full.image_to_text == {1: 0.862, 5: 0.963, 10: 0.99}
    assert full.text_to_image == {1: 0.715, 5: 0.909, 10: 0.949}


def test_the_97_2_that_is_often_quoted_is_text_to_image_on_coco_1k() -> None:
    holders = [row for row in PUBLISHED if 0.972 in (row.image_to_text.get(10), row.text_to_image.get(10))]
    assert [(row.model, row.dataset, row.protocol, row.text_to_image[10]) for row in holders] == [
        (AAAI, "coco", "1K", 0.972)
    ]


def test_image_to_text_is_the_higher_one_and_recall_grows_with_depth() -> None:
    # True of every published row here: with five captions an image there are more right answers. A swap would show.
    for row in [*PUBLISHED, *(ablation.row for ablation in ABLATIONS)]:
        assert all(row.image_to_text[k] > row.text_to_image[k] for k in row.image_to_text), row
        for recalls in (row.image_to_text, row.text_to_image):
            assert list(recalls) == sorted(recalls) and list(recalls.values()) == sorted(recalls.values()), row
            assert all(0 < recall < 1 for recall in recalls.values()), row


def test_rows_by_test_set() -> None:
    assert len(published_rows("flickr30k", "1K")) == 8
    assert {row.model for row in published_rows("coco", "1K")} == {V1, AAAI}
    assert UNITER_BASE in {row.model for row in published_rows("coco", "5K")}
    assert published_rows("flickr30k", "5K") == []


def test_ablations_end_at_the_row_of_the_full_model() -> None:
    layers, regions = published_ablations("layers"), published_ablations("regions")
    assert [ablation.value for ablation in layers] == [3, 6, 12, 24]
    assert [ablation.value for ablation in regions] == [36, 100]
    full = {
        (row.dataset, row.protocol): row for row in PUBLISHED if (row.model, row.setting) == (V1, "pretrain+finetune")
    }
    assert layers[2].row.image_to_text == full["flickr30k", "1K"].image_to_text
    assert regions[1].row.text_to_image == full["coco", "1K"].text_to_image
