"""Histograms of regions as charts: how many a picture has, scores, sizes and norms."""

from __future__ import annotations

import math

from tasks.charts import histogram
from tasks.features.region_statistics import Histogram, RegionStatistics

_MOST_BARS = 40


def region_charts(statistics: RegionStatistics) -> list[str]:
    """A chart for each of the histograms. There must be a region."""
    return [
        _regions_chart(statistics),
        _chart("Scores", statistics.scores, "score of a region"),
        _chart("Best scores", statistics.best_scores, "score of an image’s best region"),
        _chart("Background", statistics.background, "probability that a region is none"),
        _area_chart(statistics.areas),
        _norm_chart(statistics.norms),
    ]


def _regions_chart(statistics: RegionStatistics) -> str:
    """One bar per number of regions; of many numbers, a bar per equal group of them."""
    first = statistics.min_regions
    counts = statistics.regions_per_image[first:]
    size = math.ceil(len(counts) / _MOST_BARS)
    grouped = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    step = math.ceil(len(grouped) / 8)
    ticks = [(number + 0.5, str(first + number * size)) for number in range(0, len(grouped), step)]
    return histogram("Regions per image", grouped, ticks, "regions" if size == 1 else f"regions, {size} to a bar")


def _chart(title: str, shares: Histogram, x_label: str) -> str:
    bins = len(shares.counts)
    ticks = [(bins * fifth / 5, f"{fifth / 5:g}") for fifth in range(6)]
    return histogram(title, shares.counts, ticks, x_label)


def _area_chart(areas: Histogram) -> str:
    ticks = [(float(place), f"{100 * edge:g}%") for place, edge in enumerate(areas.edges)]
    return histogram("Box areas", areas.counts, ticks, "share of the picture that a box covers")


def _norm_chart(norms: Histogram) -> str:
    """From the lowest to the highest norm that occurs, by equal ratios. Zeros would stretch it, and are told apart."""
    nothing, counts, edges = norms.counts[0], norms.counts[1:], norms.edges[1:]
    title = "Feature norms" + (f", without {nothing:,} regions that have none" if nothing else "")
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return ""
    size = math.ceil((used[-1] + 1 - used[0]) / _MOST_BARS)
    starts = range(used[0], used[-1] + 1, size)
    grouped = [sum(counts[start : start + size]) for start in starts]
    step = math.ceil(len(grouped) / 5)
    # The edges go on, so that the last bar may end beyond the highest norm.
    ticks = [(float(bar), f"{edges[starts[bar]]:.3g}") for bar in range(0, len(grouped), step)]
    return histogram(title, grouped, ticks, "L2 norm of a region’s features, by ratios")
