"""UNITER's databases as its writers lay them out, self-made and small."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np

CLASSES = 20
Arrays = dict[str, np.ndarray]


def picture(number: int, count: int, dim: int = 8, soft_labels: bool = True) -> Arrays:
    """The half-precision arrays of a made-up picture, best score first."""
    random = np.random.default_rng(number)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4)
    boxes = np.concatenate([corners, corners[:, 2:] - corners[:, :2]], axis=1)
    powers = random.gamma(0.4, size=(count, 1 + CLASSES))
    arrays = {
        "features": np.maximum(random.normal(size=(count, dim)), 0),
        "norm_bb": boxes,
        "conf": np.sort(random.uniform(0.1, 0.9, count))[::-1],
        "soft_labels": powers / powers.sum(axis=1, keepdims=True),
    }
    return {name: value.astype(np.float16) for name, value in arrays.items() if soft_labels or name != "soft_labels"}


def as_map(arrays: Arrays, **more: Any) -> bytes:
    """A value of a plain database: msgpack-numpy's maps."""
    packed = {
        name: {b"nd": True, b"type": "<f2", b"kind": b"", b"shape": list(array.shape), b"data": array.tobytes()}
        for name, array in arrays.items()
    }
    return msgpack.packb({**packed, **more}, use_bin_type=True)


def as_npz(arrays: Arrays, **more: Any) -> bytes:
    """A value of a compressed database."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        # As under the NumPy of its time, which took `allow_pickle` for an array: today's own writer cannot.
        for name, array in {**arrays, **more}.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array)
    return stream.getvalue()


def write_lmdb(folder: Path, values: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    (folder / "lock.mdb").unlink(missing_ok=True)
    return folder


def write_images(folder: Path, values: Mapping[str, bytes], counts: Mapping[str, int] | None = None) -> Path:
    """An image database with its list of keys and, beside it, that of its box counts."""
    write_lmdb(folder, {**values, "__keys__": json.dumps(list(values)).encode()})
    if counts is not None:
        name = folder.name.removeprefix("feat_").removesuffix("_compressed")
        (folder.parent / f"nbb_{name}.json").write_text(json.dumps(counts))
    return folder


def text_value(ids: Sequence[int], image: Any, **more: Any) -> bytes:
    """A value of a text database."""
    return lz4.frame.compress(msgpack.packb({"input_ids": list(ids), "img_fname": image, **more}, use_bin_type=True))
