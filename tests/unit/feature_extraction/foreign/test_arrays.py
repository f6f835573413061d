from pathlib import Path

import numpy as np
import pytest

from feature_extraction.foreign.arrays import ForeignError, float_columns, float_rows, tell_float_type
from feature_extraction.foreign.tsv import read_lxmert_row

REAL = Path(__file__).parents[5] / "shared/data/bottom_up_attention/caffe_coco_features/train2014_obj36.tsv"
TYPES = ("float16", "float32", "float64")
RANDOM = np.random.default_rng(0)
PLAIN = RANDOM.normal(size=(36, 2048))


def told(features, float_type: str, pictures: int = 4):
    written = np.asarray(features, float_type)
    return tell_float_type([(len(written), written.tobytes())] * pictures)


@pytest.mark.parametrize("float_type", TYPES)
@pytest.mark.parametrize(
    "features",
    [
        pytest.param(np.maximum(PLAIN, 0), id="after a ReLU"),
        pytest.param(np.maximum(PLAIN - 1.64, 0), id="nearly all zeros"),
        pytest.param(PLAIN, id="with numbers below zero"),
        pytest.param(np.abs(PLAIN) / 50, id="of length one"),
        pytest.param(RANDOM.uniform(0.2, 7, (36, 2054)), id="of few exponents"),
        pytest.param(np.maximum(PLAIN, 0).astype(np.float16), id="once of half precision"),
        pytest.param(RANDOM.uniform(0.2, 7, (10, 1024)).astype(np.float16), id="once of half precision, few exponents"),
        pytest.param(PLAIN.astype(np.float32), id="once of single precision"),
        pytest.param(np.round(np.abs(PLAIN) * 9), id="whole numbers"),
        pytest.param(np.maximum(PLAIN[:1] * 200, 0), id="large ones of one region"),
        pytest.param(np.maximum(PLAIN[:3, :8], 0), id="very few"),
        pytest.param(np.ones((2, 1024)), id="ones"),
    ],
)
def test_what_features_hold_tells_how_they_are_written(features, float_type):
    assert told(features, float_type) == float_type


@pytest.mark.skipif(not REAL.is_file(), reason="the real bottom-up-attention rows are not beside the project")
@pytest.mark.parametrize("float_type", TYPES)
def test_real_features_tell_how_they_are_written(float_type):
    for line in REAL.read_bytes().splitlines():
        assert told(read_lxmert_row(line).features, float_type, pictures=1) == float_type


def test_where_nothing_tells_features_are_float32():
    assert tell_float_type([]) == tell_float_type([(0, b""), (3, b"")]) == "float32"
    assert told(np.zeros((36, 2048)), "float32") == "float32"
    assert told(np.full((1, 4), 1e30), "float32") == "float32"  # It is refused later, as too large.


def test_the_stated_number_of_features_decides():
    same_bytes = np.zeros((2, 1024), np.float32).tobytes()
    assert tell_float_type([(2, same_bytes)], dims=(1024, 1030)) == "float32"
    assert tell_float_type([(2, same_bytes)], dims=(2048, 2054)) == "float16"
    assert tell_float_type([(2, same_bytes)], dims=(512,)) == "float64"
    message = (
        "4096 bytes a region, which are not 1000 numbers of float16, float32 or float64; they may be 2048 float16 or "
        "1024 float32 or 512 float64"
    )
    with pytest.raises(ForeignError, match=message):
        tell_float_type([(2, same_bytes)], dims=(1000,))


def test_a_stated_number_that_the_features_contradict_is_refused():
    single = np.maximum(PLAIN, 0).astype(np.float32).tobytes()
    with pytest.raises(ForeignError, match=r"read as 4096 float16 numbers \d% of them are infinite, next to nothing"):
        tell_float_type([(36, single)], dims=(4096,))
    assert tell_float_type([(36, single)], dims=(2048,)) == "float32"
    huge = np.full((36, 2048), 1e30, np.float32).tobytes()
    assert tell_float_type([(36, huge)], dims=(2048,)) == "float32"  # Refused later, for what they are.


def test_features_of_one_byte_a_number_are_refused():
    bytes_of = RANDOM.poisson(9, (36, 2048)).astype(np.uint8)
    for dims in ((), (1024,)):
        with pytest.raises(ForeignError, match="2048 bytes a region, which seem to be as many numbers of one byte"):
            tell_float_type([(36, bytes_of.tobytes())], dims)


def test_a_doubt_between_half_and_single_precision_names_both():
    too_large = (RANDOM.uniform(1e5, 2e5, (36, 2048)) // 2048 * 2048).astype(np.float32)
    with pytest.raises(ForeignError, match="8192 bytes a region, which may be 4096 float16 or 2048 float32 numbers"):
        tell_float_type([(36, too_large.tobytes())])


@pytest.mark.parametrize("float_type", TYPES)
def test_where_the_columns_are_known_the_bytes_tell_the_type(float_type):
    boxes = RANDOM.uniform(0, 500, (5, 4)).astype(float_type)
    np.testing.assert_array_equal(float_columns(boxes.tobytes(), 5, "boxes", 4), boxes.astype(np.float32))
    assert float_columns(b"", 0, "boxes", 4).shape == (0, 4)


@pytest.mark.parametrize("whole_type", ["int16", "int32", "int64"])
def test_whole_numbers_are_not_read_as_floats(whole_type):
    boxes = np.array([[0, 0, 640, 480], [3, 7, 20, 30]], whole_type)
    with pytest.raises(ForeignError, match="boxes are whole numbers of"):
        float_columns(boxes.tobytes(), 2, "boxes", 4)


@pytest.mark.parametrize(
    ("count", "length", "float_type"), [(3, 100, "float32"), (3, 18, "float32"), (2, 0, "float16")]
)
def test_features_that_are_no_whole_number_of_rows_say_so(count, length, float_type):
    with pytest.raises(ForeignError, match=f"features has {length} bytes, which is not {count} rows of {float_type}"):
        float_rows(b"\0" * length, count, "features", float_type)
    with pytest.raises(ForeignError, match="boxes has 44 bytes, which are not 3 rows of 4 float16, float32 or float64"):
        float_columns(b"\0" * 44, 3, "boxes", 4)


def test_doubles_beyond_single_precision_become_infinite_and_are_refused_as_such():
    assert np.isinf(float_rows(np.array([[1e300]]).tobytes(), 1, "features", "float64")).all()
