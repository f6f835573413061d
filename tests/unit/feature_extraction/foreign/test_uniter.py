import pickle
from collections import Counter

import msgpack
import numpy as np
import pytest

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import region_sample
from feature_extraction.foreign.uniter import read_uniter_value
from tests.uniter import CLASSES, as_map, as_npz, picture


def read(value: bytes, count: int | None = None, limit: int | None = None, ignored: Counter[str] | None = None):
    return read_uniter_value(value, "a.npz", CLASSES, count, limit, Counter() if ignored is None else ignored)


@pytest.mark.parametrize("packed", [as_map, as_npz])
def test_both_forms_hold_the_same_regions(packed):
    arrays = picture(1, 5)
    found = read(packed(arrays))
    np.testing.assert_array_equal(found.features, arrays["features"].astype(np.float32))
    np.testing.assert_array_equal(found.boxes, arrays["norm_bb"][:, :4].astype(np.float32))
    np.testing.assert_array_equal(found.scores, arrays["conf"].astype(np.float32))
    np.testing.assert_array_equal(found.class_scores, arrays["soft_labels"].astype(np.float32))
    np.testing.assert_array_equal(found.background, arrays["soft_labels"][:, 0].astype(np.float32))
    assert found.labels.tolist() == arrays["soft_labels"][:, 1:].argmax(1).tolist()
    sample = region_sample(found, "a", (1000, 500), 5, CLASSES)
    np.testing.assert_allclose(sample.boxes, found.boxes * [1000, 500, 1000, 500])


@pytest.mark.parametrize(
    ("count", "limit", "kept"), [(None, None, 5), (3, None, 3), (None, 2, 2), (4, 2, 2), (2, 9, 2)]
)
def test_the_list_of_box_counts_and_the_limit_cut(count, limit, kept):
    found = read(as_map(picture(1, 5)), count, limit)
    for name in ("boxes", "labels", "scores", "background", "features", "class_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(read(as_map(picture(1, 5))), name)[:kept])


def test_without_soft_labels_there_is_no_distribution():
    found = read(as_map(picture(1, 2, soft_labels=False)))
    assert found.class_scores is None
    assert (found.labels.tolist(), found.background.tolist()) == ([0, 0], [0, 0])


def test_entries_of_other_names_are_passed_over_and_counted_and_never_unpickled():
    ignored: Counter[str] = Counter()
    poison = np.array([Poison()], object)
    read(as_npz(picture(1, 2), allow_pickle=np.array(True), info=poison), ignored=ignored)
    read(as_map(picture(1, 2), info=pickle.dumps(Poison())), ignored=ignored)
    assert ignored == {"allow_pickle": 1, "info": 2}
    assert not Poison.ran


class Poison:
    ran = False

    def __reduce__(self):
        return setattr, (Poison, "ran", True)


ARRAYS = picture(1, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "neither a msgpack map nor an .npz"),
        (as_map(ARRAYS)[:-7], "neither a msgpack map nor an .npz"),
        (as_npz(ARRAYS)[:-7], "not a whole .npz"),
        (as_npz({**ARRAYS, "conf": np.array([Poison()], object)}), "not a whole .npz"),
        (as_npz({**ARRAYS, "conf": np.arange(3)}), "conf has numbers of type '<i8'"),
        (msgpack.packb([1]), "a msgpack list, not a map"),
        (as_map({"features": ARRAYS["features"]}), "no norm_bb, conf; it holds features"),
        (as_map(ARRAYS, conf=b"abc"), "conf is no array of msgpack-numpy"),
        (as_map(ARRAYS, conf={b"nd": True, b"type": "|O", b"shape": [3], b"data": b""}), "conf has numbers of type"),
        (as_map(ARRAYS, conf={b"nd": True, b"type": "<f2", b"shape": [-3], b"data": b""}), r"the shape \[-3\]"),
        (as_map(ARRAYS, conf={b"nd": True, b"type": "<f2", b"shape": [3], b"data": b"ab"}), r"shape \[3\] has 2 bytes"),
        (as_map({**ARRAYS, "conf": ARRAYS["conf"][:2]}), "do not fit"),
        (as_map({**ARRAYS, "soft_labels": ARRAYS["soft_labels"][:, 1:]}), "but the vocabulary has 20 classes"),
    ],
)  # fmt: skip
def test_a_damaged_value_is_refused(value, message):
    with pytest.raises(ForeignError, match=message):
        read(value)
    assert not Poison.ran


def test_fewer_boxes_than_the_list_says_are_refused():
    with pytest.raises(ForeignError, match="3 boxes, but the list of box counts says 4"):
        read(as_map(ARRAYS), count=4)
