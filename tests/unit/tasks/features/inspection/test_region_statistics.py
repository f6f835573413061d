from __future__ import annotations

import numpy as np
import pytest

from feature_extraction.samples.regions import RegionLayout, RegionSample, encode_regions
from feature_extraction.samples.tars import ShardError
from tasks.features.inspection.region_statistics import AREA_EDGES, NORM_EDGES, RegionTally
from tests.regions import LABELS, regions_of

SQRT8, FP16 = RegionLayout(3, 4, "sqrt8"), RegionLayout(3, 4, "fp16")


def tally_of(samples: list[RegionSample], layout: RegionLayout = SQRT8) -> RegionTally:
    tally = RegionTally(len(LABELS), layout.max_regions)
    for sample in samples:
        tally.add_record(sample.key, encode_regions(sample, layout))
    return tally


def test_sums_are_those_counted_by_hand() -> None:
    none = regions_of("a", labels=())
    two = regions_of("b", labels=(0, 1), scores=(0.875, 0.5), features=((3, 4, 0, 0), (0, 0, 0, 0)))
    three = regions_of("c", labels=(1, 1, 2), scores=(0.75, 0.25, 0.25), features=((1, 1, 1, 1),) * 3)
    found = tally_of([none, two, three]).statistics(LABELS)
    assert (found.images, found.regions) == (3, 5)
    assert found.regions_per_image == (1, 0, 1, 1)
    assert (found.min_regions, found.median_regions, found.max_regions) == (0, 2, 3)
    assert [(count.name, count.regions) for count in found.labels] == [("dog", 3), ("cat", 1), ("tree", 1)]
    assert found.labels_absent == ("never seen",)
    assert found.mean_score == (0.875 + 0.5 + 0.75 + 0.25 + 0.25) / 5
    assert found.mean_norm == pytest.approx((5 + 0 + 2 + 2 + 2) / 5, rel=0.01)
    assert found.zeros == 6 / 20  # two of the region (3, 4, 0, 0), all four of the next
    assert found.saturated == 13 / 20  # its 4, and the twelve ones: each is its region's largest value
    assert [place for place, count in enumerate(found.scores.counts) for _ in range(count)] == [5, 5, 10, 15, 17]
    assert [place for place, count in enumerate(found.best_scores.counts) if count] == [15, 17]
    assert found.background.counts[2] == 5  # all are 0.125
    assert found.areas.counts[AREA_EDGES.tolist().index(0.1)] == 5  # 15 x 20 of 40 x 30 is a quarter
    assert sum(found.norms.counts) == 5 and found.norms.counts[0] == 1  # the norm that is zero


def test_statistics_of_nothing_are_zero() -> None:
    found = tally_of([]).statistics(LABELS)
    assert (found.images, found.regions, found.median_regions, found.mean_norm) == (0, 0, 0, 0)
    assert found.labels_absent == LABELS


def test_halves_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    samples = [
        regions_of(f"{n}", rng.integers(0, 3, n % 4).tolist(), (0.9, 0.5, 0.1), rng.uniform(0, 9, (3, 4)).tolist())
        for n in range(20)
    ]
    halves = tally_of(samples[:7])
    halves.merge(tally_of(samples[7:]))
    merged, whole = halves.statistics(LABELS), tally_of(samples).statistics(LABELS)
    assert merged.model_copy(update={"mean_norm": 0, "mean_score": 0}) == whole.model_copy(
        update={"mean_norm": 0, "mean_score": 0}
    )
    assert merged.mean_norm == pytest.approx(whole.mean_norm)
    assert merged.mean_score == pytest.approx(whole.mean_score)


def test_median_lies_between_the_middle_two_of_an_even_number() -> None:
    few, many = (
        regions_of("a", labels=(0,)),
        regions_of("b", labels=(0, 0, 0), scores=(1, 1, 1), features=((1,) * 4,) * 3),
    )
    assert tally_of([few, few, many, many]).statistics(LABELS).median_regions == 2
    assert tally_of([few, many, many]).statistics(LABELS).median_regions == 3


def test_exact_features_have_no_saturated_values() -> None:
    assert tally_of([regions_of("a")], FP16).statistics(LABELS).saturated is None


def test_values_beyond_the_edges_count_in_the_outer_bins() -> None:
    huge = regions_of("a", (0, 0), (0.9, 0.8), ((60000, 60000, 60000, 60000), (0, 0, 0, 0)), [[0, 0, 80, 60]] * 2)
    found = tally_of([huge], FP16).statistics(LABELS)
    assert found.areas.counts[-1] == 2  # four times the picture
    assert NORM_EDGES[-1] > 120_000 and sum(found.norms.counts) == 2


def test_boxes_of_another_scale_are_counted() -> None:
    boxes = [[0, 0, 40.5, 30], [-2, 0, 10, 10], [5, 5, 5, 9]]  # half a pixel over the edge, two, and empty
    sample = regions_of("a", (0, 0, 0), (0.9, 0.8, 0.7), ((1,) * 4,) * 3, boxes)
    assert tally_of([sample]).statistics(LABELS).boxes_outside == 2


def test_label_beyond_the_vocabulary_is_an_error() -> None:
    with pytest.raises(ShardError, match="key a: label 4, but the extractor's vocabulary has 4 names"):
        tally_of([regions_of("a", labels=(0, 4))])
    with pytest.raises(ShardError, match="key a: label -1"):
        tally_of([regions_of("a", labels=(-1, 0))])
