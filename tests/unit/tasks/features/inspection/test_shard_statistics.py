from __future__ import annotations

import numpy as np
import pytest

from feature_extraction.samples.regions import RegionLayout, RegionSample, encode_regions
from tasks.features.inspection.region_statistics import RegionTally
from tasks.features.inspection.shard_statistics import ShardStatistics, label_shift, mark_outliers, with_means
from tests.regions import LABELS, regions_of

SQRT8 = RegionLayout(3, 4, "sqrt8")


def line(shard: int, **fields: float) -> ShardStatistics:
    """A shard of a hundred images that are all alike."""
    alike = {"samples": 100, "regions": 300, "failed": 0, "bytes": 1000, "images_read": 100}
    means = {"mean_regions": 3.0, "mean_score": 0.5, "mean_norm": 10.0, "zeros": 0.3, "label_shift": 1.0}
    return ShardStatistics.model_validate({"shard": shard} | alike | means | fields)


def tally_of(samples: list[RegionSample]) -> RegionTally:
    tally = RegionTally(len(LABELS), SQRT8.max_regions)
    for sample in samples:
        tally.add_record(sample.key, encode_regions(sample, SQRT8))
    return tally


def test_label_shift_is_one_by_chance_and_large_for_other_labels() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(50))
    for drawn in (30, 300, 30_000):  # whatever the shard's size
        shifts = [label_shift(rng.multinomial(drawn, shares), rng.multinomial(9 * drawn, shares)) for _ in range(40)]
        assert np.mean([shift for shift in shifts if shift is not None]) == pytest.approx(1, abs=0.15)
    swapped = label_shift(rng.multinomial(3000, shares[::-1]), rng.multinomial(27_000, shares))
    assert swapped is not None and swapped > 5


def test_label_shift_needs_another_shard() -> None:
    assert label_shift(np.array([3, 4]), np.array([0, 0])) is None
    tally = tally_of([regions_of("a")])
    assert with_means(line(0), tally, tally).label_shift is None


def test_means_of_a_shard_are_over_what_was_read() -> None:
    tally = tally_of([regions_of("a"), regions_of("b", labels=())])
    found = with_means(ShardStatistics(shard=0, samples=9, regions=9, failed=0, bytes=9, images_read=0), tally, tally)
    assert (found.images_read, found.mean_regions, found.mean_score, found.zeros) == (2, 1.0, 0.6875, 6 / 8)
    assert found.mean_norm == pytest.approx(2.5, rel=0.01)


def test_shards_that_differ_are_marked_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    lines = [line(n, mean_norm=10 + rng.normal() / 10, mean_score=0.5 + rng.normal() / 100) for n in range(20)]
    lines[7] = line(7, mean_norm=7.0)
    lines[9] = line(9, failed=50, mean_score=0.2)
    marked = {found.shard: found.outliers for found in mark_outliers(lines) if found.outliers}
    assert marked == {7: ("mean_norm",), 9: ("mean_score", "failed")}


def test_small_differences_few_images_and_few_shards_are_never_marked() -> None:
    alike = [line(n) for n in range(9)]
    assert not any(found.outliers for found in mark_outliers([*alike, line(9, mean_norm=10.1)]))  # one hundredth
    assert not any(found.outliers for found in mark_outliers([*alike, line(9, mean_norm=1.0, images_read=3)]))
    assert not any(found.outliers for found in mark_outliers([*alike[:3], line(9, mean_norm=1.0)]))
