"""Values of UNITER's databases: one picture's regions as a msgpack map or as an `.npz`.

    features      (R, D) f16
    norm_bb       (R, 6) f16: x0, y0, x1, y1, width, height as shares of the picture
    conf          (R,) f16: confidence after suppression within classes
    soft_labels   (R, 1 + C) f16: softmax over the background and the foreground classes; may be absent

In a map each array is msgpack-numpy's {nd, type, kind, shape, data}, all keys bytes. Nothing is unpickled: arrays of
other types than numbers are refused, and entries of other names are passed over and counted.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.tsv import ForeignRegions

_NAMES = ("features", "norm_bb", "conf", "soft_labels")
_TYPES = ("<f2", "<f4", "<f8")
_LARGEST = 256 << 20
"""Bytes that an array of an `.npz` may unpack to: a thousand regions of 2,048 doubles take 16 million."""


def read_uniter_value(
    value: bytes, image_id: str, num_classes: int, count: int | None, limit: int | None, ignored: Counter[str]
) -> ForeignRegions:
    """Read the regions of one value. Their label is the best foreground class, their score `conf`.

    Args:
        value: of the database.
        image_id: its key.
        num_classes: C, foreground classes.
        count: R where the list of box counts gives it: the first R rows are read. None: all.
        limit: most rows read.
        ignored: counts entries of other names.

    Raises:
        ForeignError: neither form, damaged, or an array is missing or of another shape.
    """
    arrays = _from_npz(value, ignored) if value.startswith(b"PK") else _from_map(value, ignored)
    if missing := [name for name in _NAMES[:3] if name not in arrays]:
        raise ForeignError(f"no {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'no array'}")
    features, boxes, scores = (arrays[name].astype(np.float32) for name in _NAMES[:3])
    rows = len(scores) if scores.ndim == 1 else -1
    if features.ndim != 2 or boxes.shape != (rows, 6) or len(features) != rows:
        raise ForeignError(f"features {features.shape}, norm_bb {boxes.shape} and conf {scores.shape} do not fit")
    if count is not None and count > rows:
        raise ForeignError(f"{rows} boxes, but the list of box counts says {count}")
    kept = min([rows, *(number for number in (count, limit) if number is not None)])
    labels, background, class_scores = np.zeros(rows, np.int64), np.zeros(rows, np.float32), None
    if "soft_labels" in arrays:
        class_scores = arrays["soft_labels"].astype(np.float32)
        if class_scores.shape != (rows, 1 + num_classes):
            raise ForeignError(
                f"soft_labels {class_scores.shape} of {rows} boxes, but the vocabulary has {num_classes} classes and "
                "the background"
            )
        labels, background = class_scores[:, 1:].argmax(axis=1), class_scores[:, 0]
        class_scores = class_scores[:kept]
    return ForeignRegions(
        image_id=image_id,
        size=None,
        boxes=boxes[:kept, :4],
        labels=labels[:kept],
        scores=scores[:kept],
        background=background[:kept],
        features=features[:kept],
        relative=True,
        class_scores=class_scores,
    )


def _from_map(value: bytes, ignored: Counter[str]) -> dict[str, np.ndarray]:
    try:
        found = msgpack.unpackb(value, raw=True, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:  # cut, or no msgpack; it raises both kinds
        raise ForeignError(f"neither a msgpack map nor an .npz ({error or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise ForeignError(f"a msgpack {type(found).__name__}, not a map of arrays")
    arrays = {}
    for key, item in found.items():
        name = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
        if name in _NAMES:
            arrays[name] = _array_of_map(name, item)
        else:
            ignored[name] += 1
    return arrays


def _array_of_map(name: str, item: Any) -> np.ndarray:
    if not isinstance(item, Mapping) or item.get(b"nd") is not True:
        raise ForeignError(f"{name} is no array of msgpack-numpy")
    kind, shape, data = (item.get(key) for key in (b"type", b"shape", b"data"))
    dtype = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if dtype not in _TYPES:
        raise ForeignError(f"{name} has numbers of type {dtype!r}, not one of {', '.join(_TYPES)}")
    if not (isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)):
        raise ForeignError(f"{name} has the shape {shape!r}")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ForeignError(f"{name} of shape {shape} has {len(data) if isinstance(data, bytes) else 0} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _from_npz(value: bytes, ignored: Counter[str]) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(value)) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in _NAMES:
                    ignored[name] += 1
                elif info.file_size > _LARGEST:
                    raise ForeignError(f"{name} unpacks to {info.file_size} bytes")
                else:
                    content = io.BytesIO(archive.read(info))
                    arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    except ForeignError:
        raise
    except Exception as error:  # damaged zips and headers can raise anything
        raise ForeignError(f"not a whole .npz ({error})") from error
    for name, array in arrays.items():
        if array.dtype.str not in _TYPES:
            raise ForeignError(f"{name} has numbers of type {array.dtype.str!r}, not one of {', '.join(_TYPES)}")
    return arrays
