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


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "not a .rgn record"),
        (b"RGN2" + GOLDEN[4:], "not a .rgn record"),
        (GOLDEN[:4] + struct.pack("<H", 2) + GOLDEN[6:], ".rgn version 2, this program reads 1"),
        (GOLDEN[:-1], "133 bytes, expected 134"),
        (GOLDEN[:20] + struct.pack("<I", 3) + GOLDEN[24:], "damaged .rgn header"),
    ],
)
def test_anything_else_is_refused_by_name(record: bytes, message: str) -> None:
    with pytest.raises(ShardError, match="key k: ") as caught:
        decode_regions("k", record)
    assert message in str(caught.value)
