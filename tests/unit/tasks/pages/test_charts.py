from __future__ import annotations

import re

import pytest

from tasks.pages.charts import bar_chart, histogram, line_chart, share_bar


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_line_runs_from_corner_to_corner_of_the_plot() -> None:
    ((first, last),) = points_of(line_chart("t", {"a": [(0, 0.0), (10, 1.0)]}, "step", percent=True))
    # A drawing of 360 x 190 with margins: left 44, right 12, top 10, bottom 26.
    assert (first, last) == ((44.0, 164.0), (348.0, 10.0))


def test_values_are_placed_in_proportion() -> None:
    ((_, middle, _),) = points_of(line_chart("t", {"a": [(0, 0), (5, 2.0), (10, 4.0)]}, "step", percent=False))
    assert middle == (196.0, 87.0)


def test_long_series_are_averaged_into_few_points_and_keep_the_last_value() -> None:
    zigzag = [(float(x), float(x % 2)) for x in range(10_000)]
    svg = line_chart("t", {"a": zigzag}, "step", percent=True)
    (line,) = points_of(svg)
    assert len(line) <= 300
    assert {y for _, y in line} == {87.0}  # the mean of every group is a half
    assert "a <b>100%</b>" in svg


def test_single_and_equal_values_are_drawn() -> None:
    dot = line_chart("t", {"a": [(3, 0.0)]}, "step", percent=False)
    assert "<polyline" not in dot and dot.count("<circle") == 1
    (flat,) = points_of(line_chart("t", {"a": [(0, 5.0), (1, 5.0)]}, "step", percent=False))
    assert flat[0][1] == flat[1][1]


def test_negative_values_stay_inside_the_drawing() -> None:
    (line,) = points_of(line_chart("t", {"a": [(0, -3.0), (1, 2.0)]}, "step", percent=False))
    assert all(10 <= y <= 164 for _, y in line)


@pytest.mark.parametrize("highest", [1e-6, 0.07, 0.9, 1.0, 3.2, 99.0, 12_345.0])
def test_axis_encloses_the_values_with_few_round_ticks(highest: float) -> None:
    svg = line_chart("t", {"a": [(0, 0.0), (1, highest)]}, "step", percent=False)
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([^<]+)</text>', svg)[:-1]]
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == 0 and ticks[-1] >= highest * 0.999


def test_sixth_series_is_dashed_instead_of_looking_like_the_first() -> None:
    svg = line_chart("t", {name: [(0, 0.0), (1, 1.0)] for name in "abcdef"}, "step", percent=True)
    assert re.findall(r'<polyline class="([^"]+)"', svg) == ["s0", "s1", "s2", "s3", "s4", "s0 again"]


def test_bars_are_sorted_and_in_proportion() -> None:
    svg = bar_chart("t", {"few": 1, "many": 4}, total=10)
    assert [float(width) for width in re.findall(r'width="([\d.]+)"', svg)] == [140.0, 35.0]
    assert svg.index("many") < svg.index("few")
    assert "4 (40.00%)" in svg


def test_bars_may_have_looks() -> None:
    svg = bar_chart("t", {"may pass": 3, "final": 2, "plain": 1}, total=6, looks={"may pass": "s1", "final": "s0"})
    assert re.findall(r'<rect class="([^"]+)"', svg) == ["bar s1", "bar s0", "bar"]


def test_long_values_stay_inside_the_drawing() -> None:
    svg = bar_chart("t", {"many": 2_658_111, "few": 1}, total=3_318_333)
    x, text = re.findall(r'<text class="value" x="([\d.]+)" y="\d+">([^<]+)</text>', svg)[0]
    assert text == "2,658,111 (80.10%)"
    assert float(x) + 6.3 * len(text) <= 360


def test_share_bar_is_cut_in_proportion() -> None:
    svg = share_bar("t", [("a", 3, "s2"), ("nothing", 0, "s1"), ("b", 1, "s0")])
    cuts = re.findall(r'<rect class="bar (s\d)" x="([\d.]+)" y="0" width="([\d.]+)"', svg)
    assert cuts == [("s2", "0.00", "270.00"), ("s0", "270.00", "90.00")]
    assert "a <b>3</b> (75.0%)" in svg and "nothing" not in svg


def test_names_are_escaped() -> None:
    evil = "<b>&"
    for svg in (
        line_chart(evil, {evil: [(0, 1.0)]}, evil, percent=True),
        bar_chart(evil, {evil: 1}, total=1),
        share_bar(evil, [(evil, 1, "s0")]),
    ):
        assert evil not in svg
        assert "&lt;b&gt;&amp;" in svg


def test_charts_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="without points"):
        line_chart("t", {"a": []}, "step", percent=True)
    with pytest.raises(ValueError, match="positive counts"):
        bar_chart("t", {"a": 0}, total=1)
    with pytest.raises(ValueError, match="positive counts"):
        share_bar("t", [("a", 0, "s0")])


def test_bars_of_charts_that_are_read_together_have_one_scale() -> None:
    def length(longest: int | None) -> float:
        svg = bar_chart("t", {"a": 5}, 20, longest=longest)
        return float(re.findall(r'<rect class="bar" x="128" y="4" width="([^"]+)"', svg)[0])

    assert length(10) == pytest.approx(length(None) / 2, abs=0.1)
    assert length(3) == length(None)  # never longer than the chart


def test_histogram_stands_on_its_axis_in_proportion() -> None:
    svg = histogram("t", [4, 0, 2, 1], [(0, "0"), (4, "1")], "score")
    bars = re.findall(r'<rect class="bar" x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)"', svg)
    heights = [float(height) for _, _, _, height in bars]
    assert heights == pytest.approx(
        [138, 69, 34.5]
    )  # 190 less the margins, 10 above and 42 below; the empty bin has none
    assert {round(float(y) + float(height), 1) for _, y, _, height in bars} == {148.0}
    # Each of the four bins is a quarter of 304 wide, and its bar stands in the middle of it.
    assert [float(x) + float(width) / 2 for x, _, width, _ in bars] == pytest.approx([82, 234, 310])
    assert re.findall(r'<text x="([\d.]+)" y="163" text-anchor="middle">([^<]+)<', svg) == [
        ("44.0", "0"),
        ("348.0", "1"),
    ]
    assert re.findall(r'text-anchor="end">([^<]+)</text>', svg) == ["0", "1", "2", "3", "4"]


def test_a_single_count_among_millions_is_seen() -> None:
    svg = histogram("t", [2_000_000, 1], [], "x")
    assert re.findall(r'height="([^"]+)"><title>1</title>', svg) == ["1.0"]
    assert "2M</text>" in svg and "500k</text>" in svg


def test_histogram_of_nothing_is_an_error() -> None:
    for counts in ([], [0, 0], [3, -1]):
        with pytest.raises(ValueError, match="chart 't' needs counts"):
            histogram("t", counts, [], "x")
