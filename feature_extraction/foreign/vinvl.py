"""VinVL's region features: a TSV of features beside a TSV of boxes and labels, or one with both.

    features    key, then {"num_boxes", "features"} or a list of {"feature"}; or key, num_boxes, features
    labels      key, then a list of {"class", "rect", "conf"}, or that as the "objects" of a dict, which may tell the
                picture's image_w and image_h, and whose objects may hold their "feature", too

Features are base64 of little-endian float32, or float16. "rect" is (x0, y0, x1, y1) in pixels, "class" is a name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from feature_extraction.foreign.arrays import FloatType, ForeignError, base64_field, float_rows
from feature_extraction.foreign.boxes import LARGEST_SHARE
from feature_extraction.foreign.tsv import ForeignRegions, box_count, picture_side, row_id, split_fields
from feature_extraction.samples.regions import Float

GEOMETRY = 6
"""Numbers that follow the features of a region: its box as shares of the picture."""
_FEATURES = 2048
_GEOMETRY_ERROR = 0.02  # A share of the picture's side: sizes are whole pixels, and so are some rectangles.


def read_vinvl_rows(features_line: bytes, labels_line: bytes, features_type: FloatType = "float32") -> ForeignRegions:
    """Read regions from a line of each TSV; from a file that holds both, give the same line twice.

    Rows of 2054 numbers are 2048 features and the box as shares of the picture (x0, y0, x1, y1, width, height), which
    is checked against the rectangles and left out. Without a size in the file, the two together tell it.

    Raises:
        ForeignError: the lines are of different pictures, not of these forms, or contradict each other.
    """
    image_id = row_id(features_line)
    other = row_id(labels_line)
    if image_id != other:
        raise ForeignError(f"features of {image_id!r} beside labels of {other!r}")
    about = _json(labels_line)
    objects = _objects(about)
    count = len(objects)
    features = float_rows(_feature_bytes(features_line, count), count, "features", features_type)
    boxes = np.array([_rectangle(item) for item in objects], np.float32).reshape(count, 4)
    size = None
    if isinstance(about, dict) and "image_w" in about and "image_h" in about:
        size = (picture_side(about["image_w"], "image_w"), picture_side(about["image_h"], "image_h"))
    if features.shape[1] == _FEATURES + GEOMETRY:
        size = _checked_size(boxes, features[:, _FEATURES:], size)
        features = features[:, :_FEATURES]
    return ForeignRegions(
        image_id=image_id,
        size=size,
        boxes=boxes,
        labels=tuple(_class_name(item) for item in objects),
        scores=np.array([_number(item, "conf") for item in objects], np.float32),
        background=np.zeros(count, np.float32),
        features=features,
    )


def vinvl_feature_bytes(features_line: bytes, labels_line: bytes) -> tuple[int, bytes]:
    """The number of boxes and the raw features of a picture.

    Raises:
        ForeignError: a line is damaged.
    """
    count = len(_objects(_json(labels_line)))
    return count, _feature_bytes(features_line, count)


def vinvl_names(labels_line: bytes) -> set[str]:
    """The class names in a line of labels."""
    return {_class_name(item) for item in _objects(_json(labels_line))}


def _json(line: bytes) -> Any:
    fields = split_fields(line)
    if len(fields) != 2:
        raise ForeignError(f"{len(fields)} tab-separated fields, expected a key and JSON")
    try:
        return json.loads(fields[1])
    except (ValueError, RecursionError) as error:
        raise ForeignError(f"the second field is not whole JSON ({error})") from error


def _objects(about: Any) -> list[dict[str, Any]]:
    objects = about.get("objects") if isinstance(about, dict) else about
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise ForeignError('no list of {"class", "rect", "conf"}')
    return objects


def _feature_bytes(line: bytes, count: int) -> bytes:
    fields = split_fields(line)
    if len(fields) == 3:
        found: Any = {"num_boxes": fields[1].decode(errors="replace"), "features": fields[2].decode(errors="replace")}
    else:
        found = _json(line)
    if isinstance(found, dict) and "features" in found:
        stated = box_count(str(found.get("num_boxes", count)))
        if stated != count:
            raise ForeignError(f"features of {stated} boxes, but {count} labels")
        return base64_field(found, "features")
    parts = [base64_field(item, "feature") for item in _objects(found)]
    if len(parts) != count or len({len(part) for part in parts}) > 1:
        raise ForeignError(f"{len(parts)} features, or of unequal lengths, for {count} labels")
    return b"".join(parts)


def _rectangle(item: Mapping[str, Any]) -> list[float]:
    rectangle = item.get("rect")
    if not isinstance(rectangle, list) or len(rectangle) != 4:
        raise ForeignError('an object without a "rect" of four numbers')
    try:
        return [_finite(value) for value in rectangle]
    except (TypeError, ValueError, OverflowError) as error:
        raise ForeignError('an object without a "rect" of four numbers') from error


def _number(item: Mapping[str, Any], name: str) -> float:
    try:
        return _finite(item[name])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ForeignError(f"an object without a number {name!r}") from error


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _class_name(item: Mapping[str, Any]) -> str:
    name = item.get("class")
    if not isinstance(name, str):
        raise ForeignError('an object without a name "class"')
    return name


def _checked_size(boxes: Float, geometry: Float, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The picture's size: the stated one, or the one that pixels and shares together imply.

    Raises:
        ForeignError: the geometry is not that of the boxes.
    """
    if not len(boxes):
        return size
    if boxes.max() <= LARGEST_SHARE and (size is None or max(size) > 1):
        _check_geometry(boxes, geometry, (1, 1))  # They are shares themselves.
        return size
    if size is None:
        # The box that reaches furthest right, or down, has the smallest error by rounding.
        right, low = boxes[:, 2].argmax(), boxes[:, 3].argmax()
        shares = float(geometry[right, 2]), float(geometry[low, 3])
        if not min(shares) > 0:
            raise ForeignError("the last six numbers of a feature are not its box as shares of the picture")
        size = (max(1, round(float(boxes[right, 2]) / shares[0])), max(1, round(float(boxes[low, 3]) / shares[1])))
    _check_geometry(boxes, geometry, size)
    return size


def _check_geometry(boxes: Float, geometry: Float, size: tuple[int, int]) -> None:
    shares_of = boxes / np.array([*size, *size], np.float32)
    sides = shares_of[:, 2:] - shares_of[:, :2]
    error = float(np.abs(np.concatenate([shares_of, sides], axis=1) - geometry).max())
    if not error < _GEOMETRY_ERROR:
        raise ForeignError(
            f"the last six numbers of a feature differ by {error:.2g} from its box as shares of "
            f"{size[0]} x {size[1]} pixels; are features and labels of the same run?"
        )
