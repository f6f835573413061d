"""The published files of RefCOCO, RefCOCO+ and RefCOCOg: expressions, and predicted boxes.

Expressions are `refs(unc).p` or `refs(umd).p` of the official download with its `instances.json`, the same records as
JSON, or the `finetune_*.json` that MDETR made of them.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from feature_extraction.plain_pickle import NotPlainError, PlainUnpickler
from model.downstream.bootstrap import Values
from model.downstream.refcoco.boxes import corners
from model.downstream.refcoco.measures import Expression
from tasks.errors import UserError
from tasks.examples.formats.files import PublishedRow, read_json, trouble_text, unique
from tasks.rows.input import input_chunks

BoxForm = Literal["xywh", "xyxy"]
_Box = tuple[float, float, float, float]
_DIVISIONS = "RefCOCO and RefCOCO+ have val, testA and testB in refs(unc).p, RefCOCOg has val and test in refs(umd).p"
_LAST_FRACTION = 1.0


class _Sentence(PublishedRow):
    sent_id: int


class _Ref(PublishedRow):
    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[_Sentence]


class _Annotation(PublishedRow):
    id: int
    image_id: int
    bbox: _Box = Field(description="corner, width and height in pixels")


class _Instances(PublishedRow):
    annotations: list[_Annotation]


class _ExpressionImage(PublishedRow):
    id: int
    original_id: int
    caption: str


class _Mdetr(PublishedRow):
    images: list[_ExpressionImage] = Field(min_length=1)
    annotations: list[_Annotation]


def read_expressions(uri: str, instances: str | None, split: str | None) -> list[Expression]:
    """Read the expressions of one split, with the boxes that they are for.

    Args:
        instances: `instances.json`, which has the boxes of the records in `refs(...).p`; None: the file has them.
        split: of the records; None: the file holds one split.
    """
    is_json = next(input_chunks(uri, "refs"), b"").lstrip()[:1] in (b"[", b"{")
    if instances is None:
        if not is_json:
            raise UserError(f"{uri} names objects without their boxes; give instances.json of the same folder, too")
        return _read_mdetr(uri, split)
    refs = read_json(uri, "refs", TypeAdapter(list[_Ref])) if is_json else _read_pickle(uri)
    splits = sorted({ref.split for ref in refs})
    if split not in splits:
        given = "name a split" if split is None else f"{uri} has no split {split}"
        raise UserError(f"{given}; there are {', '.join(splits)}: {_DIVISIONS}")
    boxes = {one.id: one for one in read_json(instances, "instances", TypeAdapter(_Instances)).annotations}
    found = []
    for ref in refs:
        if ref.split != split:
            continue
        if ref.ann_id not in boxes or boxes[ref.ann_id].image_id != ref.image_id:
            raise UserError(
                f"{instances} has no annotation {ref.ann_id} of picture {ref.image_id}, which ref_id {ref.ref_id} of "
                f"{uri} names; take both files from one folder of the download"
            )
        box = _checked_corners([boxes[ref.ann_id].bbox], [f"annotation {ref.ann_id}"], instances, "xywh")[0]
        found += [Expression(one.sent_id, ref.ref_id, str(ref.image_id), _box(box)) for one in ref.sentences]
    unique([one.id for one in found], uri, "sent_id")
    return found


def _read_pickle(uri: str) -> list[_Ref]:
    """Read records that Python 2 pickled, without running anything that the file asks for."""
    content = b"".join(input_chunks(uri, "refs"))
    try:
        records = PlainUnpickler(io.BytesIO(content), encoding="utf-8", errors="backslashreplace").load()
        return TypeAdapter(list[_Ref]).validate_json(json.dumps(records, default=_python_number))
    except NotPlainError as error:
        raise UserError(
            f"{uri} would run {error.asks_for} when it is opened, which no file of refs needs; fetch it again from a "
            "source that you trust"
        ) from error
    except ValidationError as error:
        raise UserError(f"{uri} holds no refs: {trouble_text(error)}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{uri} cannot be unpickled ({error}); fetch it again") from error


def _python_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"it holds {type(value).__name__}")


def _read_mdetr(uri: str, split: str | None) -> list[Expression]:
    if split is not None:
        raise UserError(
            f"{uri} holds one split, so none can be chosen; give --instances with refs(unc).p, or no --split"
        )
    content = read_json(uri, "expressions", TypeAdapter(_Mdetr))
    boxes = {one.image_id: one.bbox for one in content.annotations}
    unique([one.id for one in content.images], uri, "image id")
    found = []
    for image in content.images:
        if image.id not in boxes:
            raise UserError(f"{uri} has no box for image id {image.id}")
        box = _checked_corners([boxes[image.id]], [f"image id {image.id}"], uri, "xywh")[0]
        found.append(Expression(image.id, None, str(image.original_id), _box(box)))
    return found


def _box(corners_of_box: Values) -> _Box:
    x0, y0, x1, y1 = corners_of_box.tolist()
    return x0, y0, x1, y1


class _SentenceBox(PublishedRow):
    sent_id: int
    pred_box: _Box


class _RefBox(PublishedRow):
    ref_id: int
    box: _Box


_Boxes = TypeAdapter(list[_SentenceBox] | list[_RefBox])


def read_boxes(uri: str, expressions: Sequence[Expression], annotations: str, form: BoxForm | None) -> Values:
    """Read the boxes predicted for exactly these expressions, in their order.

    Two forms: `[{"sent_id": 1, "pred_box": [x, y, w, h]}]` as UNITER writes it, and `[{"ref_id": 1, "box": [x0, y0, x1,
    y1]}]` as VL-BERT does, where each ref_id is there as often as it has expressions.

    Args:
        form: of the boxes, where it is not that of the program; None: it is.

    Returns:
        (expressions, 4) corners in pixels.
    """
    rows = read_json(uri, "boxes for expressions", _Boxes)
    by_sentence = bool(rows) and isinstance(rows[0], _SentenceBox)
    name = "sent_id" if by_sentence else "ref_id"
    ids = [row.sent_id if isinstance(row, _SentenceBox) else row.ref_id for row in rows]
    given = [row.pred_box if isinstance(row, _SentenceBox) else row.box for row in rows]
    wanted = [one.id if by_sentence else one.ref for one in expressions]
    if None in wanted:
        raise UserError(f"{uri} names objects by ref_id, which {annotations} does not; give boxes by sent_id")
    if by_sentence:
        unique(ids, uri, name)
    _check_counts(ids, [one for one in wanted if one is not None], (uri, annotations), name)
    boxes = _checked_corners(given, [f"{name} {one}" for one in ids], uri, form or ("xywh" if by_sentence else "xyxy"))
    if boxes.max() <= _LAST_FRACTION:
        raise UserError(f"{uri} has boxes from 0 to 1, as fractions of the picture; give pixels")
    rows_of: dict[int, list[int]] = {}
    for row, one in enumerate(ids):
        rows_of.setdefault(one, []).append(row)
    # Expressions for one object are right with the same boxes, so which box is whose does not matter.
    return boxes[[rows_of[one].pop() for one in wanted if one is not None]]


def _check_counts(found: Sequence[int], wanted: Sequence[int], uris: tuple[str, str], name: str) -> None:
    predictions, annotations = uris
    found_times, wanted_times = Counter(found), Counter(wanted)
    lacking, others = wanted_times - found_times, found_times - wanted_times
    if lacking:
        raise UserError(
            f"{predictions} lacks {lacking.total():,} of the {len(wanted):,} expressions of {annotations}, such as "
            f"{name} {next(iter(lacking))}; predict them all, a part cannot be measured"
        )
    if others:
        raise UserError(
            f"{predictions} has {others.total():,} boxes that {annotations} has no expression for, such as {name} "
            f"{next(iter(others))}; is it of the same split of the same data set?"
        )


def _checked_corners(boxes: Sequence[_Box], names: Sequence[str], uri: str, form: BoxForm) -> Values:
    """Corners of boxes.

    Raises:
        UserError: a box has a negative side.
    """
    values = np.array(boxes, np.float64).reshape(-1, 4)
    found = corners(values) if form == "xywh" else values
    wrong = np.flatnonzero((found[:, 2:] < found[:, :2]).any(1))
    if len(wrong):
        raise UserError(
            f"{uri}, {names[wrong[0]]} has box {values[wrong[0]].tolist()} with a negative side, read as {form}; is it "
            f"{'xyxy' if form == 'xywh' else 'xywh'}?"
        )
    return found
