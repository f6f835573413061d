from __future__ import annotations

from pathlib import Path

import pytest

from feature_extraction.samples.regions import RegionLayout, decode_regions
from feature_extraction.samples.tars import ShardError
from tasks.features.lookup import find_records, read_captions, read_layout, read_pictures, read_record
from tasks.storage import paths
from tasks.storage.root import Root
from tests.regions import (
    DATASET,
    FEATURES,
    SPLIT,
    jpeg,
    publish_captions,
    publish_features,
    publish_pictures,
    regions_of,
)

SHARD = f"{FEATURES.folder}/regions-00000.tar"
LAYOUT = RegionLayout(3, 4, "fp16")
KEYS = [f"{number:09d}" for number in (3, 5, 6, 9)]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of(key, (0,) * (n % 3)) for n, key in enumerate(KEYS)], encoding="fp16")
    return root


def test_layout_is_read_off_the_first_record(root: Root) -> None:
    with root.open(SHARD) as stream:
        assert read_layout(stream, "it") == LAYOUT


def test_record_is_found_by_its_position(root: Root) -> None:
    with root.open(SHARD) as stream:
        for position in (3, 0, 2):
            key, record = read_record(stream, "it", LAYOUT, position)
            assert key == KEYS[position]
            assert len(decode_regions(key, record).boxes) == position % 3


def test_records_are_found_by_key_in_the_order_of_the_shard(root: Root) -> None:
    with root.open(SHARD) as stream:
        found = dict(find_records(stream, "it", LAYOUT, 4, {KEYS[2], KEYS[1], "elsewhere"}))
    assert list(found) == [KEYS[1], KEYS[2]]
    assert [len(decode_regions(key, record).boxes) for key, record in found.items()] == [1, 2]


def test_wrong_layout_and_missing_records_are_errors(root: Root) -> None:
    with root.open(SHARD) as stream:
        with pytest.raises(ShardError, match="it: member 1 is not where the layout says"):
            read_record(stream, "it", RegionLayout(20, 4, "fp16"), 1)
        with pytest.raises(ShardError, match="it: member 9 is not where the layout says"):
            read_record(stream, "it", LAYOUT, 9)


def test_shard_of_another_version_is_named(root: Root) -> None:
    content = bytearray(root.read_bytes(SHARD))
    content[512 + 4] = 7
    root.publish_bytes(SHARD, bytes(content))
    with root.open(SHARD) as stream, pytest.raises(ShardError, match=r"it: key 000000003: \.rgn version 7"):
        read_layout(stream, "it")


def test_pictures_are_read_by_key_and_what_is_not_there_is_left_out(root: Root) -> None:
    publish_pictures(root, 0, KEYS[:2], "red")
    publish_pictures(root, 1, KEYS[2:], "blue")
    wanted = {0: [KEYS[1], "gone"], 1: [KEYS[2]], 7: ["in no shard"]}
    assert read_pictures(root, DATASET, SPLIT, wanted) == {KEYS[1]: jpeg("red"), KEYS[2]: jpeg("blue")}


def test_damaged_image_shard_is_named(root: Root) -> None:
    root.publish_bytes(paths.image_shard_path(DATASET, SPLIT, 0), b"no tar" * 200)
    with pytest.raises(ShardError, match=r"images-00000\.tar: not a whole tar"):
        read_pictures(root, DATASET, SPLIT, {0: [KEYS[0]]})


def test_an_image_has_all_of_its_captions(root: Root) -> None:
    assert read_captions(root, DATASET, SPLIT, KEYS) == {}
    publish_captions(root, [(KEYS[0], "one"), (KEYS[1], "two"), (KEYS[0], "three"), (KEYS[2], "four")])
    found = read_captions(root, DATASET, SPLIT, [KEYS[0], KEYS[2], "gone"])
    assert found == {KEYS[0]: ["one", "three"], KEYS[2]: ["four"]}
