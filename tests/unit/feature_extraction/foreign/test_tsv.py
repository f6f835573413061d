import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import (
    LXMERT_FIELDS,
    ForeignRegions,
    read_bottom_up_row,
    read_lxmert_row,
    region_sample,
    row_id,
    write_lxmert_row,
)
from feature_extraction.samples.regions import check_regions
from tests.foreign import lxmert_line, made, text

REAL = Path(__file__).parents[5] / "shared/data/bottom_up_attention/caffe_coco_features/train2014_obj36.tsv"


def regions(scores, labels=None, size=(200, 100), relative=False, boxes=None) -> ForeignRegions:
    count = len(scores)
    return ForeignRegions(
        image_id="a",
        size=size,
        boxes=np.array([[n, n, n + 10, n + 10] for n in range(count)] if boxes is None else boxes, np.float32),
        labels=np.arange(count) if labels is None else labels,
        scores=np.array(scores, np.float32),
        background=np.zeros(count, np.float32),
        features=np.arange(count, dtype=np.float32)[:, None] * [1, 2],
        relative=relative,
    )


def test_rows_are_ordered_best_score_first_and_the_first_of_equal_ones_stays_first():
    sample = region_sample(regions([0.2, 0.9, 0.2, 0.5]), "000000007", None, 10, 20)
    assert sample.labels.tolist() == [1, 3, 0, 2]
    assert sample.features[:, 1].tolist() == [2, 6, 0, 4]
    assert sample.boxes[0].tolist() == [1, 1, 11, 11]
    check_regions(sample)


def test_of_more_regions_than_fit_the_best_are_kept():
    sample = region_sample(regions([0.2, 0.9, 0.4]), "000000007", None, 2, 20)
    np.testing.assert_allclose(sample.scores, [0.9, 0.4])


def test_boxes_are_scaled_to_the_stored_picture():
    sample = region_sample(regions([0.5], boxes=[[20, 10, 100, 50]]), "000000007", (100, 25), 2, 20)
    assert sample.size == (100, 25)
    assert sample.boxes.tolist() == [[10, 2.5, 50, 12.5]]


def test_boxes_that_are_shares_of_the_picture_become_pixels():
    share = regions([0.5], size=None, relative=True, boxes=[[0.5, 0, 1, 0.25]])
    assert region_sample(share, "000000007", (100, 40), 2, 20).boxes.tolist() == [[50, 0, 100, 10]]
    with pytest.raises(ForeignError, match="picture's size"):
        region_sample(share, "000000007", None, 2, 20)


def test_pixels_of_a_picture_of_unknown_size_are_refused():
    with pytest.raises(ForeignError, match="pixels"):
        region_sample(regions([0.5], size=None), "000000007", (100, 40), 2, 20)


def test_a_class_beyond_the_vocabulary_is_named():
    with pytest.raises(ForeignError, match="class number 20, but the vocabulary has 20 classes, 0 to 19"):
        region_sample(regions([0.5], labels=np.array([20])), "000000007", None, 2, 20)
    with pytest.raises(ForeignError, match="'zebra' is not in the vocabulary"):
        region_sample(regions([0.5], labels=("zebra",)), "000000007", None, 2, {"dog": 0})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": [[1, np.nan]]}, "features hold a number that is not finite"),
        ({"boxes": [[0, 0, np.inf, 1]]}, "boxes hold a number that is not finite"),
        ({"scores": [np.nan]}, "scores hold a number that is not finite"),
        ({"scores": [7.5]}, "scores go from 7.5 to 7.5: they are no probabilities"),
        ({"scores": [-0.5]}, "no probabilities"),
        ({"background": [1.5]}, "no probabilities"),
        ({"boxes": [[10, 0, 5, 5]]}, "a box ends before it begins"),
        ({"boxes": [[0, 10, 5, 5]]}, "a box ends before it begins"),
        ({"features": [[1, 70000]]}, r"a feature is 7e\+04, beyond half precision"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changed, message):
    arrays = {name: np.array(value, np.float32) for name, value in changed.items()}
    with pytest.raises(ForeignError, match=message):
        region_sample(replace(regions([0.5]), **arrays), "000000007", None, 2, 20)


def test_scores_a_rounding_beyond_one_are_one():
    assert region_sample(regions([1.0004]), "000000007", None, 2, 20).scores.tolist() == [1]


def test_an_id_is_utf_8_and_a_mark_before_it_is_no_part_of_it():
    line = lxmert_line("写真 1", made(1, 2)).encode()
    assert read_lxmert_row(line).image_id == row_id(line) == "写真 1"
    assert read_lxmert_row(b"\xef\xbb\xbf" + line).image_id == "写真 1"


def test_label_names_become_their_numbers():
    sample = region_sample(regions([0.5, 0.6], labels=("dog", "cat")), "000000007", None, 2, {"cat": 0, "dog": 1})
    assert sample.labels.tolist() == [0, 1]


def test_an_lxmert_row_is_read_field_by_field():
    truth = made(1, 3)
    found = read_lxmert_row(lxmert_line("COCO_1", truth).encode())
    assert (found.image_id, found.size) == ("COCO_1", (200, 100))
    for name in ("boxes", "labels", "scores", "features"):
        np.testing.assert_array_equal(getattr(found, name), truth[name])
    assert found.background.tolist() == [0, 0, 0]


def test_a_row_without_boxes_is_a_picture_without_regions():
    found = read_lxmert_row(lxmert_line("COCO_1", made(1, 0)).encode())
    assert found.boxes.shape == (0, 4)


def test_base64_that_python_3_wrote_as_bytes_literals_is_read():
    truth = made(1, 2)
    fields = lxmert_line("COCO_1", truth).rstrip("\n").split("\t")
    literal = "\t".join(f"b'{field}'" if len(field) > 10 else field for field in fields)
    np.testing.assert_array_equal(read_lxmert_row(literal.encode()).features, truth["features"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields[:9], "9 tab-separated fields, expected 10"),
        (lambda fields: [*fields[:9], fields[9][:-6]], "features"),
        (lambda fields: [*fields[:7], "4", *fields[8:]], "objects_id has 24 bytes for 4 boxes"),
        (lambda fields: [*fields[:7], "x", *fields[8:]], "num_boxes is 'x'"),
        (lambda fields: [fields[0], "0", *fields[2:]], "img_h is 0 pixels"),
        (lambda fields: [*fields[:8], text(np.zeros(11), "<f4"), fields[9]], "boxes has 44 bytes"),
        (lambda fields: [*fields[:7], "-3", *fields[8:]], "num_boxes is '-3', not a number from 0 to 65,536"),
        (lambda fields: [*fields[:7], "9" * 5000, *fields[8:]], "num_boxes is '9{20}', not a number"),
        (lambda fields: [*fields[:2], "1e30", *fields[3:]], "img_w is 1e30 pixels"),
        (lambda fields: [*fields[:2], "inf", *fields[3:]], "img_w is 'inf', not a number of pixels"),
        (lambda fields: [*fields[:9], "é"], "bytes that are neither text nor base64"),
    ],
)
def test_a_damaged_row_says_what_is_wrong(change, message):
    fields = lxmert_line("COCO_1", made(1, 3)).rstrip("\n").split("\t")
    with pytest.raises(ForeignError, match=message):
        read_lxmert_row("\t".join(change(fields)).encode())


def test_the_older_form_has_one_class_and_score_one():
    truth = made(2, 3)
    row = "\t".join(["391895", "200", "100", "3", text(truth["boxes"], "<f4"), text(truth["features"], "<f4")])
    found = read_bottom_up_row(row.encode() + b"\r\n")
    assert (found.image_id, found.size) == ("391895", (200, 100))
    assert found.labels.tolist() == [0, 0, 0]
    assert found.scores.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.features, truth["features"])


def read_as_lxmert_does(line: bytes) -> dict:
    """The obvious twin: what LXMERT's loader does with a row."""
    row = dict(zip(LXMERT_FIELDS, line.decode().rstrip("\n").split("\t"), strict=True))
    count = int(row["num_boxes"])
    kinds = {
        "objects_id": np.int64, "objects_conf": np.float32, "attrs_id": np.int64, "attrs_conf": np.float32,
        "boxes": np.float32, "features": np.float32,
    }  # fmt: skip
    arrays = {name: np.frombuffer(base64.b64decode(row[name]), kind) for name, kind in kinds.items()}
    arrays["boxes"] = arrays["boxes"].reshape(count, 4)
    arrays["features"] = arrays["features"].reshape(count, -1)
    return {**arrays, "img_id": row["img_id"], "img_h": int(row["img_h"]), "img_w": int(row["img_w"])}


def test_a_written_row_is_what_lxmert_reads():
    sample = region_sample(read_lxmert_row(lxmert_line("x", made(3, 5)).encode()), "000000003", None, 9, 20)
    row = read_as_lxmert_does(write_lxmert_row(sample, "COCO_7"))
    assert (row["img_id"], row["img_h"], row["img_w"]) == ("COCO_7", 100, 200)
    np.testing.assert_array_equal(row["boxes"], sample.boxes)
    np.testing.assert_array_equal(row["objects_id"], sample.labels)
    np.testing.assert_array_equal(row["objects_conf"], sample.scores)
    np.testing.assert_array_equal(row["features"], sample.features)
    assert row["attrs_id"].tolist() == row["attrs_conf"].tolist() == [0] * 5


@pytest.mark.skipif(not REAL.is_file(), reason="the real bottom-up-attention rows are not beside the project")
def test_the_real_rows_are_read_as_lxmert_reads_them():
    for line in REAL.read_bytes().splitlines():
        found, truth = read_lxmert_row(line), read_as_lxmert_does(line)
        assert found.features.shape == (36, 2048)
        assert found.size == (truth["img_w"], truth["img_h"])
        assert (found.boxes[:, 2:] <= found.size).all()
        np.testing.assert_array_equal(found.features, truth["features"])
        np.testing.assert_array_equal(found.labels, truth["objects_id"])
        np.testing.assert_array_equal(found.scores, truth["objects_conf"])
