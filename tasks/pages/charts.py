"""Charts for the report as SVG text: no script, no library. Colours come from the style sheet in `page.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

COLOURS = 5
"""The style sheet names this many series colours, --s0 to --s4; a chart with more series uses them again, dashed."""

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 26
_TICKS = 16
_MOST_POINTS = 300
_BAR_HEIGHT, _BAR_GAP = 16, 8
_NAME_WIDTH, _VALUE_WIDTH = 128, 92
_DIGIT_WIDTH = 6.3


def line_chart(
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    percent: bool,
    mark: tuple[float, float] | None = None,
) -> str:
    """One line per named series, with a legend that gives each one's last value.

    Args:
        title: above the chart.
        series: name -> (x, y) points in order of x; finite, at least one point each.
        x_label: what x counts.
        percent: y are fractions: the axis runs from 0 to 100%. Otherwise it runs from 0, or the lowest value where
            that is negative, to the highest.
        mark: a point to put a ring around.
    """
    if not series or not all(series.values()):
        raise ValueError(f"chart {title!r} has a series without points")
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    low_x, high_x = min(xs), max(xs)
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else _ticks(min(0.0, *ys), max(ys))
    low_y, high_y = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x) if high_x > low_x else 0.5
        up = (y - low_y) / (high_y - low_y)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = []
    for tick in y_ticks:
        _, y = place(low_x, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_value(tick, percent)}</text>')
    baseline = _HEIGHT - 8
    if high_x > low_x:
        parts.append(f'<text x="{_LEFT}" y="{baseline}">{low_x:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{baseline}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{baseline}" text-anchor="end">{high_x:g}</text>')
    legend = []
    for number, (name, points) in enumerate(series.items()):
        look = f"s{number % COLOURS}" + (" again" if number >= COLOURS else "")
        placed = [place(x, y) for x, y in _thinned(points)]
        if len(placed) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline class="{look}" points="{path}"/>')
        end_x, end_y = placed[-1]
        parts.append(f'<circle class="{look}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>')
        last = _value(points[-1][1], percent)
        legend.append(f'<li><span class="key {look}"></span>{escape(name)} <b>{last}</b></li>')
    if mark is not None:
        x, y = place(*mark)
        parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    return _figure(title, _HEIGHT, parts) + f'<ul class="legend">{"".join(legend)}</ul></figure>'


def bar_chart(
    title: str,
    counts: Mapping[str, int],
    total: int,
    looks: Mapping[str, str] | None = None,
    longest: int | None = None,
) -> str:
    """One horizontal bar per count, longest first, with the count and its share of `total`.

    `looks` gives bars another colour: name -> s0 to s4, a class of the style sheet. `longest` is the count of a bar of
    full length, for charts that are read together; None: the largest.
    """
    if not counts or min(counts.values()) < 1 or total < 1:
        raise ValueError(f"chart {title!r} needs positive counts, got {dict(counts)} of {total}")
    longest = max(longest or 0, *counts.values())
    values = {name: f"{count:,} ({count / total:.2%})" for name, count in counts.items()}
    value_width = max(_VALUE_WIDTH, 8 + _DIGIT_WIDTH * max(map(len, values.values())))
    parts = []
    y = 4
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        length = count / longest * (_WIDTH - _NAME_WIDTH - value_width)
        text_y = y + _BAR_HEIGHT - 4
        parts.append(f'<text x="{_NAME_WIDTH - 8}" y="{text_y}" text-anchor="end">{escape(name)}</text>')
        look = f"bar {(looks or {}).get(name, '')}".rstrip()
        parts.append(
            f'<rect class="{look}" x="{_NAME_WIDTH}" y="{y}" width="{length:.1f}" height="{_BAR_HEIGHT}" rx="2"/>'
        )
        parts.append(f'<text class="value" x="{_NAME_WIDTH + length + 6:.1f}" y="{text_y}">{values[name]}</text>')
        y += _BAR_HEIGHT + _BAR_GAP
    return _figure(title, y, parts) + "</figure>"


def histogram(title: str, counts: Sequence[int], ticks: Sequence[tuple[float, str]], x_label: str) -> str:
    """Upright bars side by side, one per bin, over an axis of counts.

    Args:
        title: above the chart.
        counts: of the bins, from left to right.
        ticks: (place, text) each, below the bars; places are counted in bins: 0 is the left edge of the first bar,
            `len(counts)` the right edge of the last.
        x_label: what is counted by bins.
    """
    if not counts or min(counts) < 0 or max(counts) < 1:
        raise ValueError(f"chart {title!r} needs counts, one of them positive, got {list(counts)}")
    y_ticks = _ticks(0, max(counts))
    up = (_HEIGHT - _TOP - _TICKS - _BOTTOM) / y_ticks[-1]
    floor = _HEIGHT - _TICKS - _BOTTOM
    step = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    parts = []
    for tick in y_ticks:
        y = floor - tick * up
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_count(tick)}</text>')
    gap = min(2.0, step / 5)
    for number, count in enumerate(counts):
        if count:
            height = max(1.0, count * up)  # A single one among millions is still to be seen.
            parts.append(
                f'<rect class="bar" x="{_LEFT + number * step + gap / 2:.2f}" y="{floor - height:.1f}" '
                f'width="{step - gap:.2f}" height="{height:.1f}"><title>{count:,}</title></rect>'
            )
    for place, text in ticks:
        x = _LEFT + place * step
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{escape(text)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    return _figure(title, _HEIGHT, parts) + "</figure>"


def share_bar(title: str, parts: Sequence[tuple[str, int, str]]) -> str:
    """One bar cut into parts, in the order given, with a legend of counts and shares.

    Args:
        title: above the bar.
        parts: (name, count, look) each; the look is s0 to s4, a class of the style sheet. Counts of 0 are left out.
    """
    total = sum(count for _, count, _ in parts)
    if total < 1 or min(count for _, count, _ in parts) < 0:
        raise ValueError(f"chart {title!r} needs positive counts, got {list(parts)}")
    cuts, legend = [], []
    x = 0.0
    for name, count, look in parts:
        if not count:
            continue
        width = count / total * _WIDTH
        cuts.append(f'<rect class="bar {look}" x="{x:.2f}" y="0" width="{width:.2f}" height="{_BAR_HEIGHT}"/>')
        legend.append(f'<li><span class="key {look}"></span>{escape(name)} <b>{count:,}</b> ({count / total:.1%})</li>')
        x += width
    # The strip fills the width of the page at one height, unlike the other charts: it holds no text to distort.
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_BAR_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{"".join(cuts)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


def _figure(title: str, height: int, parts: Sequence[str]) -> str:
    """A figure with its caption and drawing, not yet closed."""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most _MOST_POINTS points: the means of equal groups of neighbours."""
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, a constant step apart, that enclose both ends: 3 to 6 of them."""
    span = high - low if high > low else 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if span / (factor * power) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * n for n in range(first, max(last, first + 2) + 1)]


def _value(value: float, percent: bool) -> str:
    return f"{value:.0%}" if percent else f"{value:.3g}"


def _count(value: float) -> str:
    """1,500,000 as 1.5M: it stands beside an axis."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
