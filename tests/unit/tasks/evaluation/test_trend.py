"""Evaluations that can be compared form a series; a fall below the best of it is told with both numbers."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.errors import StageError
from tasks.evaluation.trend import TrendPoint, check_fall, comparison_sentence, comparison_table, trend
from tasks.records import HistoryRow, Stage

DEPTHS = ("1", "5", "10")


def metrics(recall: float, **changes: Any) -> dict[str, Any]:
    """All six recalls alike."""
    return {
        "images": 100,
        "captions": 500,
        "image_to_text_recall": dict.fromkeys(DEPTHS, recall),
        "text_to_image_recall": dict.fromkeys(DEPTHS, recall),
        "image_to_text_median_rank": 1,
        "text_to_image_median_rank": 1,
        **changes,
    }


def row(recall: float, checkpoint: str, **changes: Any) -> HistoryRow:
    measured = changes.pop("metrics", metrics(recall))
    fields = {
        "setting": "zero-shot",
        "run": f"pretrain-{checkpoint}",
        "dataset": "retrieval",
        "split": "test",
        "seed": 0,
        "metrics": measured,
        "stage": Stage.PRETRAIN,
        "step": 1000,
        "checkpoint_fingerprint": checkpoint,
        "data_fingerprint": "d",
        "code_version": "1",
        "created_at": "2026-01-02T03:04:05+00:00",
    }
    return HistoryRow.model_validate(fields | changes)


def last(*rows: HistoryRow) -> TrendPoint:
    return trend(rows).of(rows[-1])


def test_an_ablation_is_no_fall_of_the_experiment_nor_a_mark_for_it() -> None:
    smaller, whole, again = trend([row(0.9, "a", variant="24 layers"), row(0.5, "b"), row(0.5, "c")]).points
    assert smaller.before is whole.before is None
    assert again.best is whole
    assert str(smaller.series).startswith("zero-shot, 24 layers on retrieval/test")


def test_each_is_held_against_the_one_before_and_the_best() -> None:
    first, second, third, fourth = trend([row(0.5, "a"), row(0.7, "b"), row(0.6, "c"), row(0.7, "d")]).points
    assert first.before is first.best is None and first.fall is None
    assert second.before is second.best is first and second.fall == pytest.approx(-0.2)
    assert third.before is third.best is second and third.fall == pytest.approx(0.1)
    assert (third.main, third.watched) == (pytest.approx(3.6), pytest.approx(0.6))
    assert fourth.before is third
    assert fourth.best is second  # of equals the first


@pytest.mark.parametrize(
    "other",
    [
        row(0.9, "b", setting="task-specific"),
        row(0.9, "b", dataset="flickr30k"),
        row(0.9, "b", split="val"),
        row(0.9, "b", metrics=metrics(0.9, protocol="folds:20", folds=5)),
        row(0.9, "b", metrics=metrics(0.9, images=99)),
        row(0.9, "b", metrics=metrics(0.9, approximate="a shortlist of 10")),
    ],
)
def test_what_cannot_be_compared_is_not(other: HistoryRow) -> None:
    assert last(other, row(0.5, "a")).best is None


def test_features_made_anew_are_held_against_the_old_ones_and_that_is_said() -> None:
    measure = last(row(0.9, "b", data_fingerprint="old"), row(0.5, "a"))
    assert measure.fall == pytest.approx(0.4)
    with pytest.raises(StageError, match=r"features, captions or precision were others then$"):
        check_fall(measure, 0.02)


def test_rows_of_an_older_program_are_held_against_new_ones() -> None:
    new = metrics(0.5, protocol="all", folds=1, split_images=100, intervals={"recall_sum": (2.9, 3.1)}, also=[])
    old = row(0.9, "b", stage=None, step=None, metrics=metrics(0.9, format="scores/1", data="retrieval/test"))
    measure = last(old, row(0.5, "a", metrics=new))
    assert measure.fall == pytest.approx(0.4)
    assert comparison_sentence(measure) == "recall sum 300.0, 240.0 below the best earlier one (pretrain-b)"


def test_every_protocol_has_a_series_and_the_main_one_is_watched() -> None:
    def both(recall: float, other: float) -> dict[str, Any]:
        return metrics(recall, also=[metrics(other, protocol="folds:20", folds=5)])

    found = trend([row(0, "a", metrics=both(0.5, 0.8)), row(0, "b", metrics=both(0.6, 0.7))])
    assert [round(measure.main, 6) for measure in found.points] == [3.0, 4.8, 3.6, 4.2]
    assert [measure.fall and round(measure.fall, 6) for measure in found.points] == [None, None, -0.1, 0.1]
    assert found.of(row(0, "b", metrics=both(0.6, 0.7))).series.protocol == "100 images x 500 captions"


def test_weights_measured_again_beside_another_protocol_are_there_once() -> None:
    again = row(0.5, "a", metrics=metrics(0.5, also=[metrics(0.8, protocol="folds:20", folds=5)]))
    found = trend([row(0.5, "a"), row(0.7, "b"), again])
    assert [measure.row.checkpoint_fingerprint for measure in found.points] == ["a", "b", "a"]
    assert found.of(again) is found.points[0]
    assert found.points[2].series.protocol.startswith("mean of 5 folds")


def test_metrics_of_another_kind_are_counted_and_left_out() -> None:
    found = trend([row(0.5, "a", metrics={"accuracy": 1}), row(0.5, "b")])
    assert (len(found.points), found.unreadable) == (1, 1)


@pytest.mark.parametrize(("recall", "margin"), [(0.68, 0.02), (0.7, 0.0), (0.9, 0.0), (0.1, 1.0)])
def test_within_the_margin_nothing_is_wrong(recall: float, margin: float) -> None:
    check_fall(last(row(0.7, "a"), row(recall, "b")), margin)


def test_the_first_of_its_series_cannot_fall() -> None:
    check_fall(last(row(0.1, "a")), 0.0)


def test_a_fall_names_both_checkpoints_and_all_numbers() -> None:
    with pytest.raises(StageError) as fell:
        check_fall(last(row(0.7, "a", step=4000), row(0.8, "b", step=5000), row(0.7799, "c", step=6000)), 0.02)
    assert str(fell.value) == (
        "recall fell: zero-shot on retrieval/test, 100 images x 500 captions: mean recall 78.0 (recall sum 467.9) of "
        "pretrain-c step 6,000 is 2.0 points below the best so far, 80.0 (480.0) of pretrain-b step 5,000, made "
        "2026-01-02; max_drop allows 2.0"
    )


def test_comparisons_in_words() -> None:
    assert comparison_sentence(last(row(0.5, "a"))) == (
        "recall sum 300.0, the first evaluation of zero-shot on retrieval/test, 100 images x 500 captions"
    )
    best = "the best earlier one (pretrain-a step 1,000)"
    assert comparison_sentence(last(row(0.5, "a"), row(0.6, "b"))) == f"recall sum 360.0, 60.0 above {best}"
    assert comparison_sentence(last(row(0.5, "a"), row(0.5, "b"))) == f"recall sum 300.0, equal to {best}"


def test_the_table_has_the_best_this_and_the_difference_in_percent() -> None:
    before, this, difference = comparison_table(last(row(0.8, "a"), row(0.7, "b")))
    assert (before["evaluation"], before["checkpoint"], before["image-to-text R@1"]) == ("best before", "a", 80)
    assert (this["run"], this["step"], this["recall sum"]) == ("pretrain-b", 1000, 420)
    assert difference == {
        "evaluation": "difference",
        **{f"image-to-text R@{k}": -10 for k in DEPTHS},
        **{f"text-to-image R@{k}": -10 for k in DEPTHS},
        "recall sum": -60,
        "mean recall": -10,
    }
    assert [line["evaluation"] for line in comparison_table(last(row(0.8, "a")))] == ["this"]
