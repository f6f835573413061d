from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from feature_extraction.config import RANDOM_WARNING
from feature_extraction.samples.regions import RegionSample
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.features.feature_sets import FeatureSet
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.doubts import doubts, warnings
from tasks.features.inspection.inspection import inspect_features, spread_evenly
from tasks.features.inspection.page import inspection_page
from tasks.records import Receipt
from tasks.storage import paths
from tasks.storage.root import Root
from tests.regions import (
    DATASET,
    FEATURES,
    LABELS,
    SPLIT,
    publish_captions,
    publish_features,
    publish_pictures,
    regions_of,
)

EVIL = "<script>alert('x')</script>"


def key(number: int) -> str:
    return f"{number:09d}"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Six shards of ten images with two regions each; two pictures of shard 1 failed."""
    root = Root(str(tmp_path))
    for shard in range(6):
        keys = [key(10 * shard + number) for number in range(10)]
        failures = [(key(17), "OSError: cut at byte 12"), (key(18), "OSError: cut at byte 9")] if shard == 1 else []
        kept = [name for name in keys if name not in dict(failures)]
        publish_features(root, shard, [regions_of(name) for name in kept], failures)
        publish_pictures(root, shard, kept)
    publish_captions(root, [(key(3), "a cat"), (key(3), "and a dog"), (key(41), EVIL)])
    return root


def look(root: Root, **config: Any) -> tuple[Any, list[Any]]:
    return inspect_features(root, FEATURES, InspectConfig.model_validate(config))


def test_whole_split_is_counted(root: Root) -> None:
    found, _ = look(root)
    assert (found.samples, found.failed, found.shards_read, found.statistics.images) == (58, 2, 6, 58)
    assert [(count.name, count.regions) for count in found.statistics.labels] == [("cat", 58), ("dog", 58)]
    assert [(line.shard, line.samples, line.failed) for line in found.shards][:3] == [(0, 10, 0), (1, 8, 2), (2, 10, 0)]
    assert [line.shard for line in found.shards if line.outliers] == [1]  # a fifth of its pictures failed
    assert (found.max_regions, found.feature_dim, found.encoding, found.num_labels) == (3, 4, "sqrt8", 4)
    assert [failure.key for failure in found.failures] == [key(17), key(18)]
    assert found.failure_reasons == {"OSError": 2}
    assert not found.complete


def test_selected_shards_alone_are_looked_at(root: Root) -> None:
    found, pictures = look(root, shards=((0, 0), (4, 9)))
    assert [line.shard for line in found.shards] == [0, 4, 5]
    assert found.statistics.images == 30
    assert {picture.shard for picture in pictures} <= {0, 4, 5}
    assert not any(line.outliers for line in found.shards)


def test_large_splits_are_read_in_part_and_say_so(root: Root) -> None:
    found, _ = look(root, max_images=12, count=0)
    assert (found.statistics.images, found.shards_read, found.samples) == (10, 1, 58)
    assert [line.images_read for line in found.shards] == [10, 0, 0, 0, 0, 0]
    found, _ = look(root, max_images=4, count=0)
    assert found.statistics.images == 4
    page = inspection_page(found, [], "")
    assert "Statistics are over 4 of 58 images, evenly spaced in 1 of 6 shards." in page


@pytest.mark.parametrize(("total", "wanted", "numbers"), [(3, 9, [0, 1, 2]), (10, 3, [0, 3, 6]), (4, 4, [0, 1, 2, 3])])
def test_selection_is_even(total: int, wanted: int, numbers: list[int]) -> None:
    assert spread_evenly(total, wanted) == numbers


def test_pictures_are_drawn_from_all_shards_and_again_the_same(root: Root) -> None:
    _, pictures = look(root, count=20)
    keys = [picture.key for picture in pictures]
    assert len(set(keys)) == 20 and keys == sorted(keys)
    assert len({picture.shard for picture in pictures}) >= 4
    assert [picture.key for picture in look(root, count=20)[1]] == keys
    assert [picture.key for picture in look(root, count=20, seed=1)[1]] != keys
    assert len(look(root, count=100)[1]) == 58


def test_pictures_by_key_come_in_the_order_asked_for_with_captions(root: Root) -> None:
    _, (second, first) = look(root, keys=(key(41), key(3)))
    assert (second.key, second.shard, second.captions) == (key(41), 4, (EVIL,))
    assert (first.key, first.shard, first.captions) == (key(3), 0, ("a cat", "and a dog"))
    assert [region.text for region in first.regions] == ["cat 0.88", "dog 0.50"]
    assert first.here


def test_regions_of_low_score_and_beyond_the_limit_are_not_drawn(root: Root) -> None:
    assert [len(picture.regions) for picture in look(root, keys=(key(3),), min_score=0.6)[1]] == [1]
    (picture,) = look(root, keys=(key(3),), max_drawn=1)[1]
    assert (len(picture.regions), picture.num_regions) == (1, 2)


def test_features_without_pictures_are_shown_on_grey(root: Root) -> None:
    root.remove(paths.image_shard_path(DATASET, SPLIT, 0))
    found, (picture,) = look(root, keys=(key(3),))
    assert not picture.here and picture.image.getpixel((5, 5)) == (128, 128, 128)
    assert "The picture is not on this disk." in inspection_page(found, [picture], "")


def test_shard_of_other_colours_stands_out(root: Root) -> None:
    swapped = [regions_of(key(50 + n), (2, 1), (0.5, 0.25), ((1, 2, 0, 0), (0, 0, 0, 0))) for n in range(10)]
    publish_features(root, 5, swapped)
    found, _ = look(root)
    marked = {line.shard: line.outliers for line in found.shards if line.outliers}
    assert marked == {1: ("failed",), 5: ("mean_score", "mean_norm", "label_shift")}
    page = inspection_page(found, [], "")
    assert "2 shards differ from the others:</b> look at the table, and with --shards 1,5." in page


def test_best_labels_are_shown_where_they_are_stored(root: Root) -> None:
    assert "best labels" not in inspection_page(*look(root, count=1), "")
    top = replace(
        regions_of(key(0)),
        top_labels=np.array([[0, 2], [1, 3]], np.int16),
        top_scores=np.array([[0.875, 0.0625], [0.5, 0.25]], np.float32),
    )
    publish_features(root, 0, [top])
    found, pictures = look(root, shards=((0, 0),))
    assert [region.best for region in pictures[0].regions] == [
        (("cat", 0.875), ("tree", 0.0625)),
        (("dog", 0.5), ("never seen", 0.25)),
    ]
    page = inspection_page(found, pictures, "")
    assert "<summary>2 best labels of each</summary><ol><li>cat 0.88, tree 0.06</li><li>dog 0.50, never seen" in page


WHOLE = np.array([[0.0, 0.75, 0.25, 0.0, 0.0], [0.5, 0.0, 0.125, 0.0, 0.375]], np.float32)


def with_distribution(class_scores: np.ndarray) -> RegionSample:
    return replace(regions_of(key(0)), background=class_scores[:, 0], class_scores=class_scores)


def test_the_best_of_a_whole_distribution_are_shown(root: Root) -> None:
    publish_features(root, 0, [with_distribution(WHOLE)])
    found, pictures = look(root, shards=((0, 0),))
    assert found.class_scores == "all"
    first, second = (region.best for region in pictures[0].regions)
    assert [name for name, _ in first] == ["cat", "dog", "tree", "never seen"]
    assert [score for _, score in second[:2]] == [pytest.approx(0.375, abs=0.002), pytest.approx(0.125, abs=0.002)]
    assert [name for name, _ in second[:2]] == ["never seen", "dog"]
    assert "with the whole distribution over them a region." in inspection_page(found, pictures, "")


def test_a_distribution_over_other_classes_than_the_vocabulary_is_damage(root: Root) -> None:
    publish_features(root, 0, [with_distribution(WHOLE[:, [0, 1, 2, 4]])])
    with pytest.raises(ShardError, match="class scores of 3 classes, but the extractor's vocabulary has 4 names"):
        look(root, shards=((0, 0),))


def test_best_label_beyond_the_vocabulary_is_damage(root: Root) -> None:
    wrong = replace(
        regions_of(key(0)),
        top_labels=np.array([[0, 9], [1, 3]], np.int16),
        top_scores=np.array([[0.875, 0.0625], [0.5, 0.25]], np.float32),
    )
    publish_features(root, 0, [wrong])
    with pytest.raises(ShardError, match="key 000000000: label 9, but the extractor's vocabulary has 4 names"):
        look(root, shards=((0, 0),))


def test_wrong_vocabulary_is_told_from_the_captions(root: Root) -> None:
    """Of every picture with a cat and a dog the caption says so; those of shard 5 show trees."""
    publish_features(root, 5, [regions_of(key(50 + n), (2,), (0.5,)) for n in range(10)])
    captions = [(key(n), "my cats, and a dog" if n < 50 else "the tree") for n in range(60)]
    publish_captions(root, captions)
    found, _ = look(root, count=0)
    assert found.captions is not None and found.captions.own == 1
    assert doubts(found) == []
    publish_captions(
        root, [(name, "the tree" if number < 50 else "a cat or dog") for number, (name, _) in enumerate(captions)]
    )
    found, _ = look(root, count=0)
    assert found.captions is not None and found.captions.own == 0
    (doubt,) = doubts(found)
    assert doubt.startswith("labels have little to do with captions: their words occur in 0.0% of their own pictures'")
    assert escape(doubt) in inspection_page(found, [], "")


# --- bad input ------------------------------------------------------------------------------------------------------


def test_features_that_are_not_there_are_named(root: Root) -> None:
    with pytest.raises(UserError, match=r"features/d{12}/extractor\.json is missing"):
        inspect_features(root, FeatureSet("d" * 12, DATASET, SPLIT), InspectConfig())
    with pytest.raises(UserError, match=r"no feature shard is under .*/photos/val"):
        inspect_features(root, FeatureSet(FEATURES.extractor, DATASET, "val"), InspectConfig())
    with pytest.raises(
        UserError, match=r"none of the 6 feature shards of photos/train of e{12} is selected: they are 0 to 5"
    ):
        look(root, shards=((7, 9),))
    with pytest.raises(UserError, match="no regions of image 000000017"):
        look(root, keys=(key(3), key(17)))


def test_empty_shards_are_passed_over_and_a_split_of_them_is_an_error(root: Root) -> None:
    publish_features(root, 0, [])
    assert look(root)[0].statistics.images == 48
    with pytest.raises(UserError, match=r"the selected shards of photos/train of e{12} hold no image"):
        look(root, shards=((0, 0),))


def test_split_without_any_region_still_has_a_page(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of(key(0), labels=())])
    found, pictures = look(root)
    assert "No image that was read has a region." in inspection_page(found, pictures, "")


def test_missing_cut_and_foreign_shards_are_named(root: Root) -> None:
    path = f"{FEATURES.folder}/regions-00002.tar"
    content = root.read_bytes(path)
    root.publish_bytes(path, content[:-10])
    with pytest.raises(ShardError, match=r"regions-00002\.tar has [\d,]+ bytes, its receipt says [\d,]+; run"):
        look(root)
    root.remove(path)
    with pytest.raises(ShardError, match=r"regions-00002\.tar is missing though its receipt is there"):
        look(root)
    publish_features(root, 2, [regions_of(key(20))], encoding="fp16")
    with pytest.raises(ShardError, match=r"regions-00002\.tar: its records have another form"):
        look(root)


def test_label_beyond_the_vocabulary_names_the_shard(root: Root) -> None:
    publish_features(root, 3, [regions_of(key(30), labels=(3, 2))])
    publish_features(root, 4, [regions_of(key(40))], labels=LABELS[:3])
    with pytest.raises(ShardError, match=r"regions-00003\.tar: key 000000030: label 3"):
        look(root)


def test_damaged_picture_is_named(root: Root) -> None:
    path = paths.image_shard_path(DATASET, SPLIT, 0)
    content = bytearray(root.read_bytes(path))
    content[512:1024] = bytes(512)  # inside the first picture
    root.publish_bytes(path, bytes(content))
    with pytest.raises(ShardError, match=r"images-00000\.tar, key 000000000: the picture is damaged"):
        look(root, keys=(key(0),))


# --- page -----------------------------------------------------------------------------------------------------------


def test_page_is_self_contained_and_foreign_text_stays_text(root: Root) -> None:
    publish_features(root, 0, [regions_of(key(0))], [(key(9), EVIL)], labels=(EVIL, *LABELS[1:]), details={EVIL: EVIL})
    found, pictures = look(root, keys=(key(0), key(41)))
    page = inspection_page(found, pictures, EVIL)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("<img ") == 2
    assert "000000041, shard 4: 2 of 2 regions drawn." in page


def test_page_tells_what_the_features_are(root: Root) -> None:
    details: dict[str, object] = {
        "config": {"backend": "detectron2", "model": "vg-r101-c4", "selection": "maxconf"},
        "weights_sha256": "0123456789abcdef" * 4,
        "versions": {"torch": "2.11.0"},
    }
    publish_features(root, 0, [regions_of(key(0))], details=details)
    page = inspection_page(look(root)[0], [], "")
    assert "detectron2, vg-r101-c4, maxconf, weights 0123456789ab…, torch 2.11.0" in page
    assert '<td class="text web"><bdi>' + "0123456789abcdef" * 4 in page
    assert "<b>2</b> of 4 labels never occur" in page
    assert "Warning" not in page


def test_equal_names_in_a_vocabulary_are_counted_apart(root: Root) -> None:
    publish_features(root, 0, [regions_of(key(0))], labels=("cat", "cat", "tree", "car"))
    page = inspection_page(look(root)[0], [], "")
    assert ">cat 0</text>" in page and ">cat 1</text>" in page


@pytest.mark.parametrize(
    ("details", "warned"),
    [
        ({"config": {"weights": "random:7"}}, "never trained"),
        ({"weights_sha256": "random:7"}, "never trained"),
        ({"warning": "made in haste"}, "made in haste"),
        ({"labels": {"note": "names are made up"}}, "names are made up"),
    ],
)
def test_warnings_of_the_extractor_are_shown(details: dict[str, Any], warned: str, root: Root) -> None:
    (text,) = warnings(details)
    assert warned in text
    publish_features(root, 0, [regions_of(key(0))], details=details)
    assert warned in inspection_page(look(root)[0], [], "")


def test_random_weights_are_warned_of_once() -> None:
    details = {"config": {"model": "small"}, "weights": "random:0", "warning": RANDOM_WARNING}
    assert warnings(details) == [RANDOM_WARNING]


def test_long_commits_are_cut_in_the_headline(root: Root) -> None:
    details = {"config": {"model": "big"}, "versions": {"detectron2": "0.6@" + "02b5c4e" * 5, "torch": "2.15.0"}}
    publish_features(root, 0, [regions_of(key(0))], details=details)
    page = inspection_page(look(root)[0], [], "")
    assert "<summary>big, detectron2 0.6@02b5c4e, torch 2.15.0</summary>" in page


def test_many_regions_and_wide_norms_are_drawn_in_few_bars(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    norms = [0.0, *(10.0**power for power in range(-3, 5))]
    samples = [
        regions_of(key(n), (0,) * n, (0.5,) * n, [[norms[place % 9], 0, 0, 0] for place in range(n)])
        for n in range(101)
    ]
    publish_features(root, 0, samples, max_regions=100)
    found, _ = look(root, count=0)
    page = inspection_page(found, [], "")
    zeros = sum(1 for n in range(101) for place in range(n) if place % 9 == 0)
    assert f"Feature norms, without {zeros} regions that have none" in page
    assert "regions, 3 to a bar" in page
    assert max(figure.count('class="bar"') for figure in page.split("<figure>")) <= 40


def test_pictures_that_an_import_missed_count_as_failed(root: Root) -> None:
    path = f"{FEATURES.folder}/{paths.region_receipt_name(0)}"
    receipt = root.read_model(path, Receipt)
    assert receipt is not None
    root.publish_model(path, receipt.model_copy(update={"counts": receipt.counts | {"missing": 3}}))
    assert look(root)[0].failed == 5
