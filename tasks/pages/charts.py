"""Charts for the report as SVG, without scripts. Colours come from `style.css`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tasks.pages.page import render

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
) -> Markup:
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

    lines, legend = [], []
    for count, (name, points) in enumerate(series.items()):
        look = f"s{count % COLOURS}" + (" again" if count >= COLOURS else "")
        lines.append({"look": look, "points": [place(x, y) for x, y in _thinned(points)]})
        legend.append({"look": look, "name": name, "value": _value(points[-1][1], percent)})
    return render(
        "pages/line_chart.html",
        **_frame(title, _HEIGHT, legend),
        ticks=[(place(low_x, tick)[1], _value(tick, percent)) for tick in y_ticks],
        low_x=low_x,
        high_x=high_x,
        baseline=_HEIGHT - 8,
        x_label=x_label,
        lines=lines,
        mark=None if mark is None else place(*mark),
    )


def bar_chart(
    title: str,
    counts: Mapping[str, int],
    total: int,
    looks: Mapping[str, str] | None = None,
    longest: int | None = None,
) -> Markup:
    """One horizontal bar per count, longest first, with the count and its share of `total`.

    `looks` gives bars another colour: name -> s0 to s4, a class of the style sheet. `longest` is the count of a bar of
    full length, for charts that are read together; None: the largest.
    """
    if not counts or min(counts.values()) < 1 or total < 1:
        raise ValueError(f"chart {title!r} needs positive counts, got {dict(counts)} of {total}")
    longest = max(longest or 0, *counts.values())
    values = {name: f"{count:,} ({count / total:.2%})" for name, count in counts.items()}
    value_width = max(_VALUE_WIDTH, 8 + _DIGIT_WIDTH * max(map(len, values.values())))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    bars = [
        {
            "name": name,
            "y": 4 + place * (_BAR_HEIGHT + _BAR_GAP),
            "look": f"bar {(looks or {}).get(name, '')}".rstrip(),
            "length": count / longest * (_WIDTH - _NAME_WIDTH - value_width),
            "value": values[name],
        }
        for place, (name, count) in enumerate(ordered)
    ]
    height = 4 + len(bars) * (_BAR_HEIGHT + _BAR_GAP)
    frame = _frame(title, height) | {"left": _NAME_WIDTH, "thickness": _BAR_HEIGHT}
    return render("pages/bar_chart.html", **frame, bars=bars)


def histogram(title: str, counts: Sequence[int], ticks: Sequence[tuple[float, str]], x_label: str) -> Markup:
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
    gap = min(2.0, step / 5)
    return render(
        "pages/histogram.html",
        **_frame(title, _HEIGHT),
        y_ticks=[(floor - tick * up, _count(tick)) for tick in y_ticks],
        floor=floor,
        # A single one among millions is still to be seen.
        bars=[
            {"x": _LEFT + place * step + gap / 2, "height": max(1.0, count * up), "count": count}
            for place, count in enumerate(counts)
            if count
        ],
        thickness=step - gap,
        x_ticks=[(_LEFT + place * step, text) for place, text in ticks],
        x_label=x_label,
    )


def share_bar(title: str, parts: Sequence[tuple[str, int, str]]) -> Markup:
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
        cuts.append({"look": look, "x": x, "width": width})
        legend.append({"look": look, "name": name, "value": f"{count:,}", "note": f" ({count / total:.1%})"})
        x += width
    return render("pages/share_bar.html", **_frame(title, _BAR_HEIGHT, legend), cuts=cuts)


def _frame(title: str, height: int, legend: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
    """What `figure.html` draws around a chart, and the edges of the plot inside of it."""
    right = _WIDTH - _RIGHT
    edges = {"left": _LEFT, "right": right, "middle": (_LEFT + right) / 2}
    return {
        "title": title,
        "width": _WIDTH,
        "height": height,
        "legend": [{"note": "", **key} for key in legend],
    } | edges


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
