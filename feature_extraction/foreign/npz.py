"""Region features in one `.npz` a picture, as bottom-up-attention.pytorch and UNITER write them.

    features    x, features, feat               (R, D), or (D, R)
    boxes       bbox, boxes                     (R, 4) pixels
                norm_bb                         (R, 4 or more) x0, y0, x1, y1 as shares of width and height
    size        image_w, image_h; width, height
    labels      objects_id, objects, classes    (R,) class numbers
    scores      objects_conf, conf, scores      (R,)
    classes     cls_prob, soft_labels           (R, C), or (R, 1 + C) with the background first
    R           num_bbox, num_boxes

All may be in a dict `info` instead. That is a pickle, which could run code: see `plain_pickle.py`.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import ForeignRegions, box_count, picture_side
from feature_extraction.plain_pickle import NotPlainError, PlainUnpickler
from feature_extraction.samples.regions import Float, RegionSample

_FEATURES = ("x", "features", "feat")
_BOXES = ("bbox", "boxes")
_RELATIVE_BOXES = ("norm_bb",)
_WIDTH, _HEIGHT = ("image_w", "width", "image_width"), ("image_h", "height", "image_height")
_LABELS = ("objects_id", "objects", "classes")
_SCORES = ("objects_conf", "conf", "scores")
_PROBABILITIES = ("cls_prob", "soft_labels")
_COUNT = ("num_bbox", "num_boxes")


def read_npz(path: Path, num_classes: int, background_first: bool = False) -> ForeignRegions:
    """Read the regions in one file; its name without the suffix is the picture's id.

    Args:
        path: the file.
        num_classes: C, foreground classes, which tells whether class probabilities begin with the background.
        background_first: class numbers count the background as 0. Regions of it get score 0 and their confidence as
            background probability.

    Raises:
        ForeignError: not such a file, or an array is missing or of the wrong shape; names the keys that are there.
    """
    found = _load(path)
    features = _floats(_required(found, _FEATURES, "features"), "features", 2)
    relative = _first(found, _BOXES) is None
    boxes = _floats(_required(found, _BOXES + _RELATIVE_BOXES, "boxes"), "boxes", 2)
    if len(features) != len(boxes) == features.shape[1]:
        features = features.T  # Transposed, as for VQA programs, which transpose them back.
    stated = _number(found, _COUNT)
    count = len(boxes) if stated is None else box_count(f"{stated:g}")
    if not len(features) >= count <= len(boxes) or boxes.shape[1] < 4:
        raise ForeignError(f"{count} regions, but features {features.shape} and boxes {boxes.shape}")
    labels, scores, background, class_scores = _classes(found, num_classes, background_first)
    if not len(labels) >= count <= len(scores):
        raise ForeignError(f"{count} regions, but {len(labels)} labels and {len(scores)} scores")
    width, height = _number(found, _WIDTH), _number(found, _HEIGHT)
    return ForeignRegions(
        image_id=path.stem,
        size=None
        if width is None or height is None
        else (picture_side(width, "image_w"), picture_side(height, "image_h")),
        boxes=boxes[:count, :4],
        labels=labels[:count],
        scores=scores[:count],
        background=background[:count],
        features=features[:count],
        relative=relative,
        class_scores=None if class_scores is None else class_scores[:count],
    )


def write_npz(sample: RegionSample, stream: IO[bytes]) -> None:
    """Write a file as bottom-up-attention.pytorch does, without attributes, and with UNITER's `soft_labels`.

    The last only where the sample has its classes' distributions. Arrays are plain: no pickle is needed to load them.
    """
    arrays: dict[str, Any] = {} if sample.class_scores is None else {"soft_labels": sample.class_scores}
    np.savez(
        stream,
        x=sample.features,
        bbox=sample.boxes,
        num_bbox=np.array(len(sample.boxes)),
        image_w=np.array(sample.size[0]),
        image_h=np.array(sample.size[1]),
        objects_id=sample.labels.astype(np.int64),
        objects_conf=sample.scores,
        **arrays,
    )


def _classes(
    found: Mapping[str, Any], num_classes: int, background_first: bool
) -> tuple[npt.NDArray[np.int64], Float, Float, Float | None]:
    """Labels, scores, background probabilities and distributions.

    From the class probabilities where the file has them; they are distributions where they begin with the background.
    """
    if (value := _first(found, _PROBABILITIES)) is not None:
        probabilities = _floats(value, "class probabilities", 2)
        columns = probabilities.shape[1]
        if columns not in (num_classes, num_classes + 1):
            raise ForeignError(f"{columns} class probabilities, but the vocabulary has {num_classes} classes")
        is_whole = columns == num_classes + 1
        background = probabilities[:, 0] if is_whole else np.zeros(len(probabilities), np.float32)
        foreground = probabilities[:, columns - num_classes :]
        whole = probabilities if is_whole else None
        return foreground.argmax(axis=1), foreground.max(axis=1), background, whole
    labels = np.asarray(_required(found, _LABELS, "labels"))
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ForeignError(f"labels are {labels.dtype} of shape {labels.shape}, not a row of class numbers")
    labels = labels.astype(np.int64)
    scores = _floats(_required(found, _SCORES, "scores"), "scores", 1)
    background = np.zeros(len(scores), np.float32)
    if not background_first:
        return labels, scores, background, None
    if len(labels) != len(scores):
        raise ForeignError(f"{len(labels)} labels, but {len(scores)} scores")
    is_background = labels == 0
    return (
        np.where(is_background, 0, labels - 1),
        np.where(is_background, np.float32(0), scores),
        np.where(is_background, scores, np.float32(0)),
        None,
    )


# --- the file -------------------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    """Arrays by name, with those of a dict `info` among them."""
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                found[name.removesuffix(".npy")] = _read_array(archive.read(name))
    except ForeignError:
        raise
    except Exception as error:  # damaged zips, headers and pickles can raise anything
        raise ForeignError(f"not a whole .npz ({error})") from error
    info = found.pop("info", None)
    return {**info, **found} if isinstance(info, dict) else found


def _read_array(content: bytes) -> Any:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject:
        if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
            raise ForeignError(f"an array of shape {shape} has {len(content) - stream.tell()} bytes")
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    try:
        value = PlainUnpickler(stream, encoding="latin1").load()
    except NotPlainError as error:
        raise ForeignError(
            f"its pickle asks for {error.asks_for}, which no features need; do not trust this file"
        ) from error
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _first(found: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((found[name] for name in names if name in found), None)


def _required(found: Mapping[str, Any], names: tuple[str, ...], what: str) -> Any:
    value = _first(found, names)
    if value is None:
        raise ForeignError(f"no {what} ({', '.join(names)}); its keys are {', '.join(sorted(found))}")
    return value


def _floats(value: Any, what: str, dimensions: int) -> Float:
    array = np.asarray(value)
    if array.ndim != dimensions or array.dtype.kind not in "fiu":
        raise ForeignError(f"{what} are {array.dtype} of shape {array.shape}, expected {dimensions} dimensions")
    return array.astype(np.float32)


def _number(found: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    value = _first(found, names)
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise ForeignError(f"{names[0]} is {array.dtype} of shape {array.shape}, not one number")
    return float(array.reshape(()))
