"""A row of the table is what the history's row says."""

from __future__ import annotations

from tasks.evaluation.retrieval.setting_row import setting_rows
from tasks.records import HistoryRow


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
            "image_to_text_median_rank": 1.5,
            "text_to_image_median_rank": 2.0,
        },
        checkpoint_fingerprint="c",
        data_fingerprint="d",
        code_version="1",
        created_at="2026-01-01T00:00:00+00:00",
    )
    (shown,) = setting_rows(row)
    assert shown.image_to_text == {1: 0.5, 5: 1.0, 10: 1.0}
    assert (shown.text_to_image[1], shown.images, shown.captions, shown.seed) == (0.1, 2, 10, 3)
