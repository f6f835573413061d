from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tasks.evaluation.retrieval.published import PUBLISHED, PublishedRow, published_ablations, published_rows
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.measure_table import published_html, table_html, table_text
from tasks.reports.retrieval.tables import retrieval_table
from tests.page import Page

EVIL = '<script>alert("x")</script>'


def row(setting: str, image_to_text: float, text_to_image: float, **changes: Any) -> SettingRow:
    fields = {"images": 100, "captions": 500, "seed": 0, **changes}
    return SettingRow.model_validate(
        {"setting": setting, "image_to_text": {1: image_to_text}, "text_to_image": {1: text_to_image}, **fields}
    )


TABLE = [
    row("chance", 0.01, 0.01, seed=None),
    row("zero-shot", 0.16, 0.45),
    row("pretrain+finetune", 0.5, 0.429),
]
INTERVALS = {"image_to_text_r1": (0.4, 0.625), "text_to_image_r1": (0.25, 0.5), "recall_sum": (0.75, 1.0)}


def html_of(rows: Sequence[SettingRow], published: Sequence[PublishedRow] = ()) -> str:
    return table_html(retrieval_table(rows, published))


def published_of(published: Sequence[PublishedRow]) -> str:
    return published_html(retrieval_table((), published))


def text_of(rows: Sequence[SettingRow]) -> str:
    return table_text(retrieval_table(rows))


def cells(html: str) -> list[str]:
    return re.findall(r"<td(?: class=\"cut\")?>(.*?)</td>", html)


def test_best_of_each_column_is_bold() -> None:
    assert cells(html_of(TABLE)) == [
        *("1.0", "1.0", "2.0"),
        *("16.0", "<b>45.0</b>", "61.0"),
        *("<b>50.0</b>", "42.9", "<b>92.9</b>"),
    ]


def test_one_training_run_is_not_best_of_anything() -> None:
    assert "<b>" not in html_of(TABLE[:2])


def test_of_ranks_the_lowest_is_best() -> None:
    ranks = {"image_to_text_median_rank": 3.0, "text_to_image_mean_rank": 12.5}
    html = html_of([row("a", 0.1, 0.1, **ranks), row("b", 0.2, 0.2, **dict.fromkeys(ranks, 40.0))])
    assert cells(html)[:5] == ["10.0", "<b>3.0</b>", "10.0", "<b>12.5</b>", "20.0"]
    assert "Median and mean are of ranks" in html


def test_r_precision_and_map_at_r_stand_beside_the_recalls_that_they_were_measured_with() -> None:
    measures = {"image_to_text_map_at_r": 0.25, "image_to_text_r_precision": 0.375, "text_to_image_map_at_r": 0.5}
    html = html_of([row("a", 0.1, 0.1, **measures, positives="eccv", image_to_text_mean_rank=3.0)])
    assert cells(html) == ["10.0", "25.0", "37.5", "3.0", "10.0", "50.0", "20.0"]
    assert "ground truth: eccv" in html and "R-P is the share of true ones among its R best" in html
    assert "R-P" not in html_of(TABLE)


def test_intervals_stand_below_their_numbers() -> None:
    html = html_of([row("zero-shot", 0.5, 0.375, intervals=INTERVALS)])
    assert cells(html) == [
        "50.0<small>40.0–62.5</small>",
        "37.5<small>25.0–50.0</small>",
        "87.5<small>75.0–100.0</small>",
    ]
    assert "95% bootstrap intervals" in html


def test_published_rows_stand_below_ours_with_their_source() -> None:
    html = html_of([row("zero-shot", 0.99, 0.99, images=1000)], published_rows("flickr30k", "1K"))
    page = Page(html)
    names = [text for text in page.text if "Unicoder-VL" in text or text in ("zero-shot", "published")]
    assert names[:3] == ["zero-shot", "published", "Unicoder-VL, first version, zero-shot"]
    assert "Li et al., AAAI 2020" in html
    assert "<b>" not in html  # they are not ours to be best of


def test_published_rows_alone() -> None:
    page = Page(published_of(published_rows("coco", "5K")))
    assert "62.3" in page.text and "46.7" in page.text


def test_protocol_names_the_size_and_the_tie_rule() -> None:
    assert text_of(TABLE).splitlines()[-1] == (
        "100 images x 500 captions. Recall@k in percent; a query ranks every candidate, and ties count against it."
    )


def test_protocol_of_folds_is_said() -> None:
    rows = [row("zero-shot", 0.2, 0.2, images=5000, captions=25010, protocol="folds:1000", folds=5)]
    assert "Mean of 5 folds of 1,000 images (25,010 captions in all)." in html_of(rows)


def test_approximate_rows_say_what_was_left_out() -> None:
    rows = [row("zero-shot", 0.2, 0.2, approximate="only the best 100 of a first pass were scored")]
    assert "<b>Approximate.</b> zero-shot: only the best 100 of a first pass were scored" in html_of(rows)
    assert text_of(rows).splitlines()[-1] == "approximate: only the best 100 of a first pass were scored"


def test_rows_of_different_sizes_say_that_they_cannot_be_compared() -> None:
    text = text_of([row("chance", 0.01, 0.01), row("zero-shot", 0.2, 0.2, images=50)])
    assert "cannot be compared: chance 100 images x 500 captions; zero-shot 50 images x 500 captions" in text


def test_terminal_table_is_aligned() -> None:
    one = SettingRow(
        setting="zero-shot", image_to_text={1: 0.5, 10: 1.0}, text_to_image={1: 0.125}, images=2, captions=4, seed=0
    )
    assert text_of([one]).splitlines()[:3] == [
        "            image-to-text   text-to-image",
        "setting        R@1   R@10      R@1   R@10      sum",
        "zero-shot     50.0  100.0     12.5      –        –",
    ]


def test_terminal_table_shows_half_the_width_of_intervals_and_median_ranks() -> None:
    one = row("zero-shot", 0.5, 0.375, intervals=INTERVALS, image_to_text_median_rank=2.0, image_to_text_mean_rank=9.0)
    assert text_of([one]).splitlines()[:4] == [
        "            image-to-text  text-to-image",
        "setting        R@1 median            R@1      sum",
        "zero-shot     50.0    2.0           37.5     87.5",
        "  ± 95%      ±11.2                 ±12.5    ±12.5",
    ]


def test_seed_is_shown_where_a_setting_comes_twice() -> None:
    text = text_of([row("zero-shot", 0.1, 0.1), row("zero-shot", 0.2, 0.2, seed=1), TABLE[0]])
    assert "zero-shot (seed 0)" in text and "zero-shot (seed 1)" in text and "chance (" not in text


def test_a_row_that_lacks_a_depth_has_no_sum() -> None:
    (layers_24,) = (ablation.row for ablation in published_ablations("layers") if ablation.value == 24)
    full, lacking = re.findall(r"<tr><th scope=\"row\">.*?</tr>", published_of([PUBLISHED[0], layers_24]))
    assert cells(full)[-1] == "432.2"
    assert cells(lacking) == ["86.5", "–", "–", "73.6", "–", "–", "–"]


def test_no_evaluation_is_said() -> None:
    assert text_of([]) == "no evaluation yet"
    assert "No evaluation yet" in html_of([])


def test_names_are_escaped() -> None:
    html = html_of([row(EVIL, 0.1, 0.1, approximate=EVIL, positives=EVIL)])
    assert "script" not in Page(html).tags
    assert html.count("&lt;script&gt;") == 4
