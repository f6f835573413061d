"""A version-1 record put together by hand: today's reader must read it and today's writer must write it."""

import struct

import numpy as np
import pytest

from feature_extraction.samples import RegionLayout, RegionSample, ShardError, decode_regions, encode_regions

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
