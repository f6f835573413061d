import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.npz import read_npz, write_npz
from feature_extraction.foreign.tsv import region_sample
from tests.foreign import made

CLASSES = 20


def save(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def bottom_up_pytorch(path: Path, truth: dict, **info: object) -> Path:
    """As bottom-up-attention.pytorch writes it: labels and scores in a dict, which numpy pickles."""
    about = {"image_id": "7", "objects_id": truth["labels"], "objects_conf": truth["scores"], **info}
    return save(
        path,
        x=truth["features"],
        bbox=truth["boxes"],
        num_bbox=len(truth["boxes"]),
        image_h=100,
        image_w=200,
        info=about,
    )


def test_the_files_of_bottom_up_attention_pytorch_are_read(tmp_path):
    truth = made(1, 4)
    found = read_npz(bottom_up_pytorch(tmp_path / "COCO_7.npz", truth), CLASSES)
    assert (found.image_id, found.size, found.relative) == ("COCO_7", (200, 100), False)
    for name in ("boxes", "labels", "scores", "features"):
        np.testing.assert_array_equal(getattr(found, name), truth[name])


def test_other_spellings_and_spare_rows(tmp_path):
    truth = made(1, 4)
    path = save(
        tmp_path / "a.npz", features=truth["features"].astype(np.float16), boxes=truth["boxes"], num_boxes=3,
        width=200, height=100, objects=truth["labels"], conf=truth["scores"],
    )  # fmt: skip
    found = read_npz(path, CLASSES)
    assert len(found.boxes) == len(found.features) == len(found.labels) == len(found.scores) == 3
    np.testing.assert_allclose(found.features, truth["features"][:3], rtol=1e-3)


def test_uniters_soft_labels_give_label_score_and_background(tmp_path):
    probabilities = np.zeros((2, CLASSES + 1), np.float16)
    probabilities[0, [0, 5]] = 0.25, 0.75
    probabilities[1, [0, 1]] = 0.875, 0.125
    path = save(
        tmp_path / "nlvr2_1.npz", features=np.ones((2, 8), np.float16), soft_labels=probabilities,
        norm_bb=np.array([[0, 0, 0.5, 1, 0.5, 1], [0.25, 0.5, 1, 1, 0.75, 0.5]], np.float16),
        conf=np.array([0.75, 0.125], np.float16),
    )  # fmt: skip
    found = read_npz(path, CLASSES)
    assert found.relative
    assert found.size is None
    assert found.labels.tolist() == [4, 0]
    assert found.scores.tolist() == [0.75, 0.125]
    assert found.background.tolist() == [0.25, 0.875]
    assert region_sample(found, "000000001", (200, 100), 2, CLASSES).boxes[0].tolist() == [0, 0, 100, 100]


def test_class_numbers_that_count_the_background_are_shifted(tmp_path):
    truth = {**made(1, 3), "labels": np.array([0, 1, CLASSES])}
    found = read_npz(bottom_up_pytorch(tmp_path / "a.npz", truth), CLASSES, background_first=True)
    assert found.labels.tolist() == [0, 0, CLASSES - 1]
    np.testing.assert_array_equal(found.scores, [0, *truth["scores"][1:]])
    np.testing.assert_array_equal(found.background, [truth["scores"][0], 0, 0])


def test_features_one_column_a_region_are_turned(tmp_path):
    truth = made(1, 3)
    found = read_npz(
        save(
            tmp_path / "a.npz", x=truth["features"].T, bbox=truth["boxes"], objects_id=truth["labels"],
            objects_conf=truth["scores"], image_w=200, image_h=100,
        ),
        CLASSES,
    )  # fmt: skip
    np.testing.assert_array_equal(found.features, truth["features"])


def test_what_is_missing_is_said_beside_what_is_there(tmp_path):
    path = save(tmp_path / "a.npz", embedding=np.ones((2, 8)), bbox=np.ones((2, 4)))
    with pytest.raises(ForeignError, match=r"no features \(x, features, feat\); its keys are bbox, embedding"):
        read_npz(path, CLASSES)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    path = save(tmp_path / "a.npz", info=np.array({"x": Trap()}, dtype=object))
    with pytest.raises(ForeignError, match="do not trust this file"):
        read_npz(path, CLASSES)
    assert not (tmp_path / "sprung").exists()


def test_a_cut_or_foreign_file_is_an_error(tmp_path):
    whole = bottom_up_pytorch(tmp_path / "a.npz", made(1, 4)).read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"", b"nothing of the kind")):
        path = tmp_path / f"cut{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ForeignError, match=r"not a whole \.npz"):
            read_npz(path, CLASSES)
    inside = tmp_path / "inside.npz"
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("x.npy", pickle.dumps([1]))
    with pytest.raises(ForeignError, match=r"not a whole \.npz"):
        read_npz(inside, CLASSES)


def test_what_we_write_is_read_back_and_needs_no_pickle(tmp_path):
    sample = region_sample(read_npz(bottom_up_pytorch(tmp_path / "a.npz", made(1, 4)), CLASSES), "1", None, 9, CLASSES)
    with (tmp_path / "b.npz").open("wb") as stream:
        write_npz(sample, stream)
    with np.load(tmp_path / "b.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], sample.features)
        assert {"x", "bbox", "num_bbox", "image_h", "image_w"} <= set(arrays.files)
    found = read_npz(tmp_path / "b.npz", CLASSES)
    np.testing.assert_array_equal(found.boxes, sample.boxes)
    np.testing.assert_array_equal(found.labels, sample.labels)
    np.testing.assert_array_equal(found.scores, sample.scores)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_bbox": -1}, "num_boxes is '-1', not a number"),
        ({"num_bbox": np.nan}, "num_boxes is 'nan', not a number"),
        ({"image_w": 0}, "image_w is 0.0 pixels"),
        ({"image_w": -5}, "image_w is -5.0 pixels"),
        ({"image_h": np.inf}, "image_h is 'inf', not a number of pixels"),
    ],
)
def test_counts_and_sizes_that_cannot_be_are_refused(tmp_path, changed, message):
    truth = made(1, 3)
    arrays = {
        "x": truth["features"], "bbox": truth["boxes"], "objects_id": truth["labels"], "objects_conf": truth["scores"],
        "image_w": 200, "image_h": 100, "num_bbox": 3,
    }  # fmt: skip
    assert len(read_npz(save(tmp_path / "a.npz", **arrays), CLASSES).boxes) == 3
    with pytest.raises(ForeignError, match=message):
        read_npz(save(tmp_path / "b.npz", **{**arrays, **changed}), CLASSES)


def test_a_shape_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    """Room for it, 400 TB, is never asked for."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (999_999_999, 99_999)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(ForeignError, match=r"an array of shape \(999999999, 99999\) has 0 bytes"):
        read_npz(tmp_path / "a.npz", CLASSES)
