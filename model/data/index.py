"""Tables derived from the data, cached on disk.

So a run over millions of samples starts at once.

Kinds are: the keys of every shard and how many regions each image has (`keys`, `regions`, see `store.py`), the image of
every caption (`captions`, see `captions.py`), the tokens of every caption (`tokens`, see `tokenizer.py`) and of those
that are short enough (`short`, see `long_texts.py`). Each is a file KIND-NAME.idx in the cache
folder, where NAME comes from the identity: what the table was made from, as digests. Other data, another vocabulary or
another rule is thus another file; no file is ever changed, and the folder may be emptied whenever no run uses it.

Layout, format version 1, little-endian:

    offset  size  field
    0       8     magic "UVLINDEX"
    8       4     format version
    12      4     n, bytes of the header
    16      32    sha256 of the header
    48      n     header, JSON: identity, bytes of the file, and of each array its name, dtype, shape, offset and crc32
    ...           the arrays, C order, each at a multiple of 64

Files are mapped, so ranks of one machine share their memory. A file is used only if version, header digest, identity,
size and every array's crc32 are right (0.1 s for 3 million captions); otherwise it is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import InputError
from model.publish import Lock, disk_room, part_of, publish

INDEX_FORMAT = 1
Arrays = Mapping[str, npt.NDArray[Any]]

_MAGIC = b"UVLINDEX"
_PREFIX = struct.Struct("<8sII32s")
_ALIGN = 64
_log = logging.getLogger(__name__)


def load_or_make(folder: Path | None, kind: str, identity: Mapping[str, str], make: Callable[[], Arrays]) -> Arrays:
    """Load the arrays of this identity from the cache folder, or make and cache them.

    Of several processes that want them at once, one makes them and the others wait.

    Args:
        folder: None keeps nothing.

    Returns:
        Read-only arrays by name.

    Raises:
        InputError: the folder cannot be written.
    """
    if folder is None:
        return make()
    path = index_path(folder, kind, identity)
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = read_index(path, identity)
        if arrays is not None:
            return arrays
        lock = Lock(path.with_suffix(".lock"))
    with lock:
        if not lock.try_hold():
            _log.info("waiting for another process to prepare %s", path)
            lock.hold()
        arrays = read_index(path, identity)
        if arrays is not None:
            return arrays
        made = make()
        with _writing(path):
            write_index(path, identity, made)
    arrays = read_index(path, identity)
    if arrays is None:
        raise InputError(f"{path} was damaged as soon as it was written; set cache_path to a folder on another disk")
    return arrays


def index_path(folder: Path, kind: str, identity: Mapping[str, str]) -> Path:
    """The cache file of an identity."""
    name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
    return folder / f"{kind}-{name[:16]}.idx"


def write_index(path: Path, identity: Mapping[str, str], arrays: Arrays) -> None:
    """Write an index file, whole or not at all. One process at a time."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # Offsets count from the end of the header, whose own length depends on them.
    about, offset = {}, 0
    for name, array in contiguous.items():
        about[name] = {
            "dtype": array.dtype.str,
            "shape": array.shape,
            "offset": offset,
            "crc32": zlib.crc32(array.reshape(-1).view(np.uint8).data),
        }
        offset += _aligned(array.nbytes)
    header = json.dumps({"identity": dict(identity), "bytes": offset, "arrays": about}).encode()
    with part_of(path).open("wb") as stream:
        stream.write(_PREFIX.pack(_MAGIC, INDEX_FORMAT, len(header), hashlib.sha256(header).digest()) + header)
        stream.write(bytes(_aligned(stream.tell()) - stream.tell()))
        for array in contiguous.values():
            stream.write(array.reshape(-1).view(np.uint8).data)
            stream.write(bytes(_aligned(array.nbytes) - array.nbytes))
    publish(path)


def read_index(path: Path, identity: Mapping[str, str]) -> Arrays | None:
    """Map an index file; None where it is absent or, with a line in the log, cannot be trusted."""
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None
    except ValueError:
        _log.warning("%s is empty: made again", path)
        return None
    try:
        return _parse(content, identity)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        _log.warning("%s is not to be trusted (%s): made again", path, error)
        return None


def _parse(content: mmap.mmap, identity: Mapping[str, str]) -> Arrays:
    magic, version, length, digest = _PREFIX.unpack_from(content)
    if magic != _MAGIC or version != INDEX_FORMAT:
        raise ValueError(f"not an index of format {INDEX_FORMAT}")
    header = content[_PREFIX.size : _PREFIX.size + length]
    if hashlib.sha256(header).digest() != digest:
        raise ValueError("damaged header")
    fields = json.loads(header)
    if fields["identity"] != dict(identity):
        raise ValueError("made from other data")
    first = _aligned(_PREFIX.size + length)
    if len(content) != first + fields["bytes"]:
        raise ValueError(f"{len(content)} bytes, expected {first + fields['bytes']}")
    arrays = {}
    for name, about in fields["arrays"].items():
        dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
        array = np.frombuffer(content, dtype, int(np.prod(shape)), first + about["offset"]).reshape(shape)
        if zlib.crc32(array.reshape(-1).view(np.uint8).data) != about["crc32"]:
            raise ValueError(f"damaged array {name}")
        arrays[name] = array
    return arrays


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: the index cannot be kept ({error.strerror}; {disk_room(path)}); free space or set cache_path to "
            "another folder"
        ) from error


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
