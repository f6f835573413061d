from __future__ import annotations

import re
from typing import Any

from tasks.records import HistoryRow
from tasks.reports.history import history_section
from tests.page import Page

EVIL = "<script>"


def history_row(setting: str, recall: float, day: int = 4, **metrics: Any) -> HistoryRow:
    return HistoryRow(
        setting=setting,
        run="run-1",
        dataset="retrieval",
        split="test",
        seed=0,
        metrics={
            "images": 10,
            "captions": 50,
            "image_to_text_recall": {"1": recall},
            "text_to_image_recall": {"1": recall / 2},
            "image_to_text_median_rank": 2,
            "text_to_image_median_rank": 2,
            **metrics,
        },
        checkpoint_fingerprint="a",
        data_fingerprint="b",
        code_version="0.1.0",
        created_at=f"2025-03-0{day}T05:06:07+00:00",
    )


THREE = [
    history_row(setting, recall, day)
    for day, (setting, recall) in enumerate([("zero-shot", 0.2), ("task-specific", 0.4), ("zero-shot", 0.25)], 1)
]


def test_newest_comes_first_and_each_setting_has_a_line() -> None:
    html = history_section(THREE)
    assert re.findall(r"2025-03-\d\d \d\d:\d\d", html) == [f"2025-03-0{day} 05:06" for day in (3, 2, 1)]
    assert html.count("<polyline") == 2  # zero-shot in both directions; one evaluation alone is a dot
    assert "zero-shot, retrieval/test <b>25%</b>" in html
    assert "◀" not in html and "ringed" not in html


def test_the_evaluation_at_hand_is_marked() -> None:
    # As it comes from the flow: tuples where the file has lists.
    here = THREE[1].model_copy(update={"metrics": {**THREE[1].metrics, "intervals": {"recall_sum": (1.0, 2.0)}}})
    html = history_section(THREE, here=here, about="This evaluation: the best.")
    assert re.findall(r"2025-03-(\d\d) 05:06 <b>◀ this page</b>", html) == ["02"]
    rings = re.findall(r'<circle class="mark" cx="([\d.]+)"', html)
    dots = re.findall(r'<circle class="s1" cx="([\d.]+)"', html)  # task-specific, the second setting
    assert rings == dots and len(rings) == 2
    assert "<p>This evaluation: the best.</p>" in html


def test_another_protocol_is_another_line() -> None:
    rows = [history_row("zero-shot", 0.2), history_row("zero-shot", 0.6, protocol="folds:1000")]
    html = history_section([*rows, history_row("zero-shot", 0.3, approximate="the best 100 only")])
    assert "zero-shot, retrieval/test <b>20%</b>" in html
    assert "zero-shot, retrieval/test folds:1000 <b>60%</b>" in html
    assert "zero-shot, retrieval/test approximate <b>30%</b>" in html


def test_long_history_is_cut_and_says_so() -> None:
    html = history_section([history_row("zero-shot", 0.2)] * 53)
    assert "The newest 50 of 53 evaluations." in html
    assert html.count("2025-03-04") == 50


def test_metrics_of_another_kind_leave_a_gap() -> None:
    row = history_row("zero-shot", 0.2).model_copy(update={"metrics": {"perplexity": 3.0}})
    assert history_section([row]).count("<td>–</td>") == 2


def test_no_history_is_nothing() -> None:
    assert history_section([]) == ""


def test_text_is_escaped() -> None:
    row = history_row(EVIL, 0.2, protocol=EVIL)
    row = row.model_copy(update={"run": EVIL, "code_version": EVIL, "created_at": EVIL, "dataset": EVIL})
    assert "script" not in Page(history_section([row], here=row, about=EVIL)).tags
