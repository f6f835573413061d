"""Official records with their boxes, MDETR's files, and predictions in the forms of UNITER and VL-BERT."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.examples.formats.refcoco import BoxForm, read_boxes, read_expressions
from tests.task_files import ROWS, text, write_json

REFS = str(ROWS / "refcoco_refs.json")
INSTANCES = str(ROWS / "refcoco_instances.json")
RECORDS: list[dict[str, Any]] = json.loads(text("refcoco_refs.json"))
BOXES = {one["id"]: one["bbox"] for one in json.loads(text("refcoco_instances.json"))["annotations"]}


def sentences() -> list[tuple[int, int, list[float]]]:
    """sent_id, ref_id and box of every expression."""
    return [(one["sent_id"], ref["ref_id"], BOXES[ref["ann_id"]]) for ref in RECORDS for one in ref["sentences"]]


def write_pickle(folder: Path, content: object, name: str = "refs(unc).p") -> str:
    (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return str(folder / name)


def test_records_as_json_and_pickled_are_the_same(tmp_path: Path) -> None:
    found = read_expressions(REFS, INSTANCES, "val")
    assert [(one.id, one.ref) for one in found] == [(sent, ref) for sent, ref, _ in sentences()] and len(found) == 11
    x, y, w, h = sentences()[0][2]
    assert found[0].box == (x, y, x + w, y + h) and found[0].image == "322517"
    assert read_expressions(write_pickle(tmp_path, RECORDS), INSTANCES, "val") == found
    numbered = [ref | {"ref_id": np.int64(ref["ref_id"])} for ref in RECORDS]
    assert read_expressions(write_pickle(tmp_path, numbered), INSTANCES, "val") == found


def test_texts_that_python_2_pickled_are_read(tmp_path: Path) -> None:
    """It wrote str as bytes: opcode U, which Python 3 decodes as it is told to."""
    old = b"(lp0\n(dp1\nS'ref_id'\nI1\nsS'ann_id'\nI530302\nsS'image_id'\nI322517\nsS'split'\nS'val'\ns"
    old += b"S'sentences'\n(lp2\n(dp3\nS'sent_id'\nI7\nsS'sent'\nS'caf\\xc3\\xa9 \\xff'\nsasa."
    (tmp_path / "refs(unc).p").write_bytes(old)
    assert [one.id for one in read_expressions(str(tmp_path / "refs(unc).p"), INSTANCES, "val")] == [7]


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_pickle(tmp_path, [RECORDS[0] | {"sentences": Harm()}])
    with pytest.raises(UserError, match=r"refs\(unc\)\.p would run posix\.mkdir when it is opened"):
        read_expressions(path, INSTANCES, "val")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2])[:-3], pickle.dumps({"a": {1, 2}})])
def test_what_is_no_pickle_of_records_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "refs(unc).p").write_bytes(content)
    with pytest.raises(UserError, match=r"refs\(unc\)\.p (cannot be unpickled|holds no refs)"):
        read_expressions(str(tmp_path / "refs(unc).p"), INSTANCES, "val")


def test_a_split_of_another_division_is_refused(tmp_path: Path) -> None:
    path = write_pickle(tmp_path, [ref | {"split": split} for ref in RECORDS for split in ("train", "testA", "testB")])
    with pytest.raises(
        UserError, match=r"has no split test; there are testA, testB, train: .* RefCOCOg has val and test"
    ):
        read_expressions(path, INSTANCES, "test")
    with pytest.raises(UserError, match=r"^name a split; there are testA, testB, train"):
        read_expressions(path, INSTANCES, None)
    with pytest.raises(UserError, match=r"without their boxes; give instances\.json"):
        read_expressions(path, None, "testA")


def test_boxes_of_another_folder_are_refused(tmp_path: Path) -> None:
    other = write_json(tmp_path / "instances.json", {"annotations": [{"id": 1, "image_id": 2, "bbox": [0, 0, 1, 1]}]})
    with pytest.raises(UserError, match=r"has no annotation 530302 of picture 322517, which ref_id 22515 of"):
        read_expressions(REFS, other, "val")


def test_mdetrs_file_has_one_split_with_its_boxes(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 9, "original_id": 322517, "caption": "top right guy", "dataset_name": "refcoco"}],
        "annotations": [{"id": 1, "image_id": 9, "bbox": [1.0, 2.0, 3.0, 4.0], "tokens_positive": []}],
    }
    path = write_json(tmp_path / "finetune_refcoco_val.json", content)
    (found,) = read_expressions(path, None, None)
    assert (found.id, found.ref, found.image, found.box) == (9, None, "322517", (1, 2, 4, 6))
    with pytest.raises(UserError, match="holds one split, so none can be chosen"):
        read_expressions(path, None, "val")
    predictions = write_json(tmp_path / "boxes.json", [{"ref_id": 1, "box": [1, 2, 3, 4]}])
    with pytest.raises(UserError, match=r"names objects by ref_id, which .* does not; give boxes by sent_id"):
        read_boxes(predictions, [found], path, None)
    with pytest.raises(UserError, match="has no box for image id 9"):
        read_expressions(write_json(tmp_path / "bare.json", content | {"annotations": []}), None, None)


def boxes(tmp_path: Path, content: object, form: BoxForm | None = None) -> np.ndarray:
    path = write_json(tmp_path / "boxes.json", content)
    return read_boxes(path, read_expressions(REFS, INSTANCES, "val"), REFS, form)


def refused(tmp_path: Path, content: object, form: BoxForm | None = None) -> str:
    with pytest.raises(UserError) as error:
        boxes(tmp_path, content, form)
    return str(error.value)


def test_both_programs_boxes_are_read_in_the_order_of_expressions(tmp_path: Path) -> None:
    true = np.array([one.box for one in read_expressions(REFS, INSTANCES, "val")])
    uniter = [{"sent_id": sent, "pred_box": box, "tgt_box": box} for sent, _, box in reversed(sentences())]
    assert np.allclose(boxes(tmp_path, uniter), true)
    vl_bert = [{"ref_id": ref, "box": [x, y, x + w, y + h]} for _, ref, (x, y, w, h) in reversed(sentences())]
    assert np.allclose(boxes(tmp_path, vl_bert), true)
    corner = [{"sent_id": sent, "pred_box": [x, y, x + w, y + h]} for sent, _, (x, y, w, h) in sentences()]
    assert np.allclose(boxes(tmp_path, corner, "xyxy"), true)


def test_wrong_boxes_are_named(tmp_path: Path) -> None:
    uniter = [{"sent_id": sent, "pred_box": box} for sent, _, box in sentences()]
    vl_bert = [{"ref_id": ref, "box": box} for _, ref, box in sentences()]
    assert "lacks 1 of the 11 expressions of" in refused(tmp_path, uniter[1:])
    assert "lacks 1 of the 11 expressions of" in refused(tmp_path, vl_bert[1:])
    assert "lacks 11 of the 11" in refused(tmp_path, [])
    assert "twice" in refused(tmp_path, [*uniter, uniter[0]])
    assert "has 1 boxes that" in refused(tmp_path, [*vl_bert, vl_bert[0]])
    assert "is it of the same split" in refused(tmp_path, [*uniter, {"sent_id": 1, "pred_box": [0, 0, 1, 1]}])
    fractions = [one | {"pred_box": [0.1, 0.2, 0.3, 0.5]} for one in uniter]
    assert "as fractions of the picture; give pixels" in refused(tmp_path, fractions)
    negative = [one | {"box": [9, 9, 3, 3]} for one in vl_bert]
    assert "has box [9.0, 9.0, 3.0, 3.0] with a negative side, read as xyxy; is it xywh?" in refused(tmp_path, negative)
    assert "pred_box" in refused(tmp_path, [one | {"pred_box": [0, 0, 1]} for one in uniter])
    (tmp_path / "nan.json").write_text('[{"sent_id": 1, "pred_box": [NaN, 0, 1, 1]}]')
    with pytest.raises(UserError, match="holds no boxes"):
        read_boxes(str(tmp_path / "nan.json"), read_expressions(REFS, INSTANCES, "val"), REFS, None)
