"""A version-1 record put together by hand: today's reader must read it and today's writer must write it."""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feature_extraction.samples.regions import RegionLayout, RegionSample, decode_regions, encode_regions
from feature_extraction.samples.tars import ShardError

HEADER = struct.pack("<4sHHHHIIII", b"RGN1", 1, 2, 3, 0, 640, 480, 1, 0).ljust(64, b"\0")
SIDE = (
    struct.pack("<8f", 10.0, 20.0, 30.5, 40.25, 0, 0, 0, 0)  # boxes
    + struct.pack("<2h", 7, 0)  # labels
    + struct.pack("<2e", 0.75, 0)  # scores
    + struct.pack("<2e", 0.125, 0)  # background
    + struct.pack("<2e", 4.0, 0)  # scales
)
# 255 sqrt(x / 4) of the features 4, 1 and 0
FEATURES = bytes([255, 128, 0, 0, 0, 0])
GOLDEN = HEADER + SIDE.ljust(64, b"\0") + FEATURES

SAMPLE = RegionSample(
    key="000000005",
    size=(640, 480),
    boxes=np.array([[10.0, 20.0, 30.5, 40.25]], np.float32),
    labels=np.array([7], np.int16),
    scores=np.array([0.75], np.float32),
    background=np.array([0.125], np.float32),
    features=np.array([[4.0, 1.0, 0.0]], np.float32),
)


def test_the_golden_record_is_read() -> None:
    sample = decode_regions("000000005", GOLDEN)
    assert sample.size == (640, 480)
    assert sample.boxes.tolist() == [[10.0, 20.0, 30.5, 40.25]]
    assert (sample.labels.tolist(), sample.scores.tolist(), sample.background.tolist()) == ([7], [0.75], [0.125])
    assert sample.features.tolist() == [pytest.approx([4.0, 128**2 * 4 / 255**2, 0.0])]


def test_the_golden_record_is_written() -> None:
    assert encode_regions(SAMPLE, RegionLayout(max_regions=2, feature_dim=3, encoding="sqrt8")) == GOLDEN


# The same with T = 2, at the header's place that was zero before: the two tables end just where the features begin.
WITH_TOP = (
    struct.pack("<4sHHHHIIII", b"RGN1", 1, 2, 3, 0, 640, 480, 1, 2).ljust(64, b"\0")
    + (SIDE + struct.pack("<4h", 7, 3, 0, 0) + struct.pack("<4e", 0.75, 0.0625, 0, 0)).ljust(64, b"\0")
    + FEATURES
)
TOP = {"top_labels": np.array([[7, 3]], np.int16), "top_scores": np.array([[0.75, 0.0625]], np.float32)}


def test_a_record_with_top_labels_is_read_and_written() -> None:
    sample = replace(SAMPLE, **TOP)
    assert encode_regions(sample, RegionLayout(max_regions=2, feature_dim=3, encoding="sqrt8", num_top=2)) == WITH_TOP
    back = decode_regions("000000005", WITH_TOP)
    assert back.top_labels is not None
    assert back.top_scores is not None
    assert (back.top_labels.tolist(), back.top_scores.tolist()) == ([[7, 3]], [[0.75, 0.0625]])
    assert back.features.tolist() == decode_regions("000000005", GOLDEN).features.tolist()
    assert decode_regions("000000005", GOLDEN).top_labels is None


@pytest.mark.parametrize(
    ("top", "num_top", "message"),
    [
        (TOP, 0, "2 top labels a region, but the shard holds 0"),
        ({}, 2, "0 top labels a region, but the shard holds 2"),
        (TOP | {"top_scores": None}, 2, "one is missing"),
        (TOP | {"top_labels": np.array([[7, 3], [0, 0]], np.int16)}, 2, "1 boxes, top labels (2, 2)"),
        (TOP | {"top_scores": np.array([[0.1, 0.2]], np.float32)}, 2, "best first"),
    ],
)
def test_top_labels_that_do_not_fit_are_refused(top: dict[str, Any], num_top: int, message: str) -> None:
    with pytest.raises(ShardError, match="key 000000005: ") as caught:
        encode_regions(replace(SAMPLE, **top), RegionLayout(2, 3, "sqrt8", num_top))
    assert message in str(caught.value)


# The same with C = 2 and version 2. Of the foreground .5 and .03125, the second is 1/16 of the first: its root is 1/2.
WITH_ALL = (
    struct.pack("<4sHHHHIIIII", b"RGN1", 2, 2, 3, 0, 640, 480, 1, 0, 2).ljust(64, b"\0")
    + SIDE.ljust(64, b"\0")
    + FEATURES.ljust(64, b"\0")
    + bytes([255, 128, 0, 0])
)
ALL = np.array([[0.125, 14 / 17, 0.875 / 17]], np.float32)


def test_a_record_with_class_scores_is_read_and_written() -> None:
    layout = RegionLayout(max_regions=2, feature_dim=3, encoding="sqrt8", num_classes=2)
    assert encode_regions(replace(SAMPLE, class_scores=ALL), layout) == WITH_ALL
    assert len(WITH_ALL) == layout.record_bytes
    back = decode_regions("000000005", WITH_ALL)
    assert back.class_scores is not None
    rest = (128 / 255) ** 4
    assert back.class_scores.tolist() == [pytest.approx([0.125, 0.875 / (1 + rest), 0.875 * rest / (1 + rest)])]
    assert back.features.tolist() == decode_regions("000000005", GOLDEN).features.tolist()
    assert decode_regions("000000005", GOLDEN).class_scores is None


@pytest.mark.parametrize(
    ("class_scores", "num_classes", "message"),
    [
        (ALL, 0, "class scores of 2 classes, but the shard holds those of 0"),
        (None, 2, "class scores of 0 classes, but the shard holds those of 2"),
        (ALL / 2, 2, "sum to 0.5, not to 1"),
        (ALL * [[1, 2, -14]], 2, "not all probabilities"),
        (ALL * np.nan, 2, "not all probabilities"),
        (ALL[:, ::-1].copy(), 2, "another background probability"),
        (np.concatenate([ALL, ALL]), 2, "1 boxes, but class scores (2, 3)"),
    ],
)
def test_class_scores_that_do_not_fit_are_refused(class_scores: Any, num_classes: int, message: str) -> None:
    with pytest.raises(ShardError, match="key 000000005: ") as caught:
        encode_regions(replace(SAMPLE, class_scores=class_scores), RegionLayout(2, 3, "sqrt8", num_classes=num_classes))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "not a .rgn record"),
        (b"RGN2" + GOLDEN[4:], "not a .rgn record"),
        (GOLDEN[:4] + struct.pack("<H", 3) + GOLDEN[6:], ".rgn version 3, this program reads 1 and 2"),
        (GOLDEN[:4] + struct.pack("<H", 2) + GOLDEN[6:], "damaged .rgn header"),
        (WITH_ALL[:4] + struct.pack("<H", 1) + WITH_ALL[6:], "damaged .rgn header"),
        (GOLDEN[:-1], "133 bytes, expected 134"),
        (GOLDEN[:20] + struct.pack("<I", 3) + GOLDEN[24:], "damaged .rgn header"),
    ],
)
def test_anything_else_is_refused_by_name(record: bytes, message: str) -> None:
    with pytest.raises(ShardError, match="key k: ") as caught:
        decode_regions("k", record)
    assert message in str(caught.value)
