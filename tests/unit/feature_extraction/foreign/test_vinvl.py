import json

import numpy as np
import pytest

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.boxes import tell_box_form
from feature_extraction.foreign.vinvl import read_vinvl_rows, vinvl_names
from tests.foreign import made, text, vinvl_lines

NAMES = ("dog", "tree", "dog")


def lines(**changed: object) -> tuple[bytes, bytes]:
    features, labels = vinvl_lines("42", {**made(1, 3, 2048), **changed}, NAMES)
    return features.encode(), labels.encode()


def test_features_are_parted_from_the_geometry_and_the_two_tell_the_pictures_size():
    truth = made(1, 3, 2048)
    found = read_vinvl_rows(*lines())
    assert (found.image_id, found.size, found.labels) == ("42", (200, 100), NAMES)
    np.testing.assert_array_equal(found.features, truth["features"])
    np.testing.assert_array_equal(found.boxes, truth["boxes"])
    np.testing.assert_allclose(found.scores, truth["scores"])


@pytest.mark.parametrize("about", [{}, {"image_w": 200, "image_h": 100}])
def test_rectangles_that_are_shares_of_the_picture_are_those_of_the_geometry(about):
    features, labels = lines()
    objects = json.loads(labels.split(b"\t")[1])
    for item in objects:
        item["rect"] = [value / side for value, side in zip(item["rect"], (200, 100) * 2, strict=True)]
    found = read_vinvl_rows(features, f"42\t{json.dumps({**about, 'objects': objects})}".encode())
    assert found.size == ((200, 100) if about else None)
    assert tell_box_form([found]) == "normalised"
    objects[0]["rect"][2] += 0.1
    with pytest.raises(ForeignError, match="same run"):
        read_vinvl_rows(features, f"42\t{json.dumps({**about, 'objects': objects})}".encode())


@pytest.mark.parametrize("numbers", ["float16", "float64"])
def test_features_of_another_precision_are_parted_from_the_geometry_too(numbers):
    truth = made(1, 3, 2048)
    features, labels = (line.encode() for line in vinvl_lines("42", truth, NAMES, numbers))
    found = read_vinvl_rows(features, labels, numbers)
    assert found.size == (200, 100)
    np.testing.assert_array_equal(found.features, truth["features"].astype(numbers).astype(np.float32))
    with pytest.raises(ForeignError, match="which is not 3 rows of float64"):
        read_vinvl_rows(*(line.encode() for line in vinvl_lines("42", made(1, 3, 2047), NAMES, "<f2")), "float64")


def test_features_of_another_width_are_kept_whole():
    truth = made(1, 3, 10)
    features = f"42\t3\t{text(truth['features'], '<f4')}\n".encode()
    labels = json.loads(lines()[1].split(b"\t")[1])
    about = {"image_w": 200, "image_h": 100, "objects": labels}
    found = read_vinvl_rows(features, f"42\t{json.dumps(about)}\n".encode())
    assert found.size == (200, 100)
    np.testing.assert_array_equal(found.features, truth["features"])


def test_one_file_with_a_feature_in_each_object_is_read():
    truth = made(1, 2, 10)
    objects = [
        {"class": "dog", "rect": box.tolist(), "conf": 0.5, "feature": text(row, "<f4")}
        for box, row in zip(truth["boxes"], truth["features"], strict=True)
    ]
    line = ("42\t" + json.dumps({"image_w": 200, "image_h": 100, "objects": objects})).encode()
    np.testing.assert_array_equal(read_vinvl_rows(line, line).features, truth["features"])


def test_labels_of_another_run_are_found_out_by_the_geometry():
    features, _ = lines()
    _, labels = lines(boxes=made(2, 3)["boxes"])
    with pytest.raises(ForeignError, match="same run"):
        read_vinvl_rows(features, labels)


def test_lines_of_two_pictures_or_other_counts_are_refused():
    features, labels = lines()
    with pytest.raises(ForeignError, match="features of '42' beside labels of '43'"):
        read_vinvl_rows(features, labels.replace(b"42\t", b"43\t"))
    fewer = json.dumps(json.loads(labels.split(b"\t")[1])[:2])
    with pytest.raises(ForeignError, match="features of 3 boxes, but 2 labels"):
        read_vinvl_rows(features, f"42\t{fewer}".encode())


def test_a_cut_line_says_what_is_wrong():
    features, labels = lines()
    with pytest.raises(ForeignError, match="not whole JSON"):
        read_vinvl_rows(features[:5000], labels)
    with pytest.raises(ForeignError, match="no list of"):
        read_vinvl_rows(features, b'42\t{"what": 1}')


def test_names_of_a_line():
    assert vinvl_names(lines()[1]) == {"dog", "tree"}


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999", '"x"', "null"])
def test_a_rectangle_or_score_that_is_no_number_is_refused(value):
    features, labels = lines()
    objects = json.loads(labels.split(b"\t")[1])
    whole = json.dumps(objects)
    x1 = json.dumps(objects[1]["rect"][2])
    with pytest.raises(ForeignError, match='an object without a "rect" of four numbers'):
        read_vinvl_rows(features, f"42\t{whole.replace(x1, value)}".encode())
    score = json.dumps(objects[1]["conf"])
    with pytest.raises(ForeignError, match="an object without a number 'conf'"):
        read_vinvl_rows(features, f"42\t{whole.replace(score, value)}".encode())


def test_json_of_endless_depth_is_a_damaged_line():
    features, _ = lines()
    with pytest.raises(ForeignError, match="not whole JSON"):
        read_vinvl_rows(features, b"42\t" + b"[" * 200_000)
