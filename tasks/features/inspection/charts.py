"""Statistics of regions as charts: how many a picture has, their labels, scores, sizes and norms."""

from __future__ import annotations

import math
from collections import Counter

from markupsafe import Markup

from tasks.features.inspection.region_statistics import Histogram, RegionStatistics
from tasks.pages.charts import bar_chart, histogram

_MOST_BARS = 40
_LONGEST_NAME = 19  # characters beside a bar


def region_charts(statistics: RegionStatistics) -> list[Markup]:
    """A chart for each of the histograms. There must be a region."""
    return [
        regions_chart(statistics),
        _chart("Scores", statistics.scores, "score of a region"),
        _chart("Best scores", statistics.best_scores, "score of an image’s best region"),
        _chart("Background", statistics.background, "probability that a region is none"),
        _area_chart(statistics.areas),
        _norm_chart(statistics.norms),
    ]


def regions_chart(statistics: RegionStatistics) -> Markup:
    """How many regions a picture has: one bar per number; of many numbers, a bar per equal group of them."""
    first = statistics.min_regions
    counts = statistics.regions_per_image[first:]
    size = math.ceil(len(counts) / _MOST_BARS)
    grouped = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    step = math.ceil(len(grouped) / 8)
    ticks = [(number + 0.5, str(first + number * size)) for number in range(0, len(grouped), step)]
    return histogram("Regions per image", grouped, ticks, "regions" if size == 1 else f"regions, {size} to a bar")


def label_charts(statistics: RegionStatistics, most: int, columns: int) -> list[Markup]:
    """Of the most frequent labels, how many regions have each; in charts side by side, of one scale."""
    top = statistics.labels[:most]
    repeated = {name for name, times in Counter(_short(count.name) for count in top).items() if times > 1}
    counts = {
        f"{_short(count.name)} {count.label}" if _short(count.name) in repeated else _short(count.name): count.regions
        for count in top
    }
    names = list(counts)
    length = max(1, math.ceil(len(names) / columns))
    return [
        bar_chart(
            f"Labels {start + 1} to {start + len(part)} of {len(statistics.labels):,} that occur",
            {name: counts[name] for name in part},
            statistics.regions,
            longest=top[0].regions,
        )
        for start in range(0, len(names), length)
        if (part := names[start : start + length])
    ]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _chart(title: str, shares: Histogram, x_label: str) -> Markup:
    bins = len(shares.counts)
    ticks = [(bins * fifth / 5, f"{fifth / 5:g}") for fifth in range(6)]
    return histogram(title, shares.counts, ticks, x_label)


def _area_chart(areas: Histogram) -> Markup:
    ticks = [(float(place), f"{100 * edge:g}%") for place, edge in enumerate(areas.edges)]
    return histogram("Box areas", areas.counts, ticks, "share of the picture that a box covers")


def _norm_chart(norms: Histogram) -> Markup:
    """From the lowest to the highest norm that occurs, by equal ratios. Zeros would stretch it, and are told apart."""
    nothing, counts, edges = norms.counts[0], norms.counts[1:], norms.edges[1:]
    title = "Feature norms" + (f", without {nothing:,} regions that have none" if nothing else "")
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return Markup()
    size = math.ceil((used[-1] + 1 - used[0]) / _MOST_BARS)
    starts = range(used[0], used[-1] + 1, size)
    grouped = [sum(counts[start : start + size]) for start in starts]
    step = math.ceil(len(grouped) / 5)
    # The edges go on, so that the last bar may end beyond the highest norm.
    ticks = [(float(bar), f"{edges[starts[bar]]:.3g}") for bar in range(0, len(grouped), step)]
    return histogram(title, grouped, ticks, "L2 norm of a region’s features, by ratios")
