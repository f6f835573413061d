"""Open a split: its features, its captions and their tokens.

What would cost a pass over the data is kept in the cache folder (`index.py`): opening 3 million samples takes a second
once they are prepared. The order of samples is `order.py`'s, what a batch is made of `batch.py`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.config import FeatureSource
from model.data.index import Arrays, load_or_make
from model.data.order import Index
from model.data.remote import connect, fetching
from model.data.store import FeatureStore
from model.errors import InputError


class Column(Sequence[str]):
    """Strings of a Parquet column, read on first use and kept as Arrow keeps them."""

    def __init__(self, source: FeatureSource, name: str, rows: Index) -> None:
        self._source, self._name, self._rows = source, name, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            first, stop, stride = row.indices(len(self))
            values: list[str] = self._values.slice(first, max(stop - first, 0)).to_pylist()
            return values[::stride]
        return str(self._values[row].as_py())

    @cached_property
    def _values(self) -> Any:
        values = _read_strings(self._source, self._name)
        if len(values) == len(self._rows):
            return values
        # Large strings: offsets of 32 bits would overflow where a column is put together anew.
        return values.cast(pa.large_string()).take(pa.array(self._rows))


@dataclass(frozen=True)
class Captions:
    """The captions of one split, in row order, with their images' positions in the feature store.

    Attributes:
        digest: sha256 of the data they were made from, features and captions; None if chosen by hand.
        index_folder: where tables made from them may be kept.
        dropped: how many more the split has, which are too long (see `long_texts.py`).
    """

    ids: Sequence[str]
    texts: Sequence[str]
    image_rows: Index
    digest: str | None = None
    index_folder: Path | None = None
    dropped: int = 0

    @property
    def images(self) -> Index:
        """Feature-store positions of the images that have a caption, ascending."""
        return np.unique(self.image_rows)

    @property
    def image_of(self) -> Index:
        """For each caption, the position of its image in `images`."""
        return np.searchsorted(self.images, self.image_rows)


def load_captions(source: FeatureSource, store: FeatureStore) -> Captions:
    """Load the captions whose image has regions.

    Rows of images whose extraction failed are left out.

    Raises:
        InputError: the captions cannot be read, or none has an image in the feature set.
    """
    identity = {"features": store.manifest_sha256, "captions": _captions_digest(source)}
    arrays = load_or_make(store.index_folder, "captions", identity, lambda: _match_captions(source, store))
    rows: Index = arrays["rows"]
    digest = hashlib.sha256("".join(identity.values()).encode() + store.nameless.tobytes()).hexdigest()
    ids, texts = Column(source, "caption_id", rows), Column(source, "text", rows)
    return Captions(ids, texts, arrays["image_rows"], digest, store.index_folder)


def _match_captions(source: FeatureSource, store: FeatureStore) -> Arrays:
    """For each caption with an image, its Parquet row and its image's row in the store."""
    import pyarrow.compute as pc  # It makes its functions on import; with an index none is needed.

    keys = _read_strings(source, "image_key")
    members = pc.binary_join_element_wise(keys.cast(pa.binary()), b".rgn", b"")
    found = pc.fill_null(pc.index_in(members, value_set=pa.array(store.names)), -1).to_numpy().astype(np.int64)
    rows = np.flatnonzero(found >= 0)
    if len(rows) == 0:
        raise InputError(
            f"{source.name}: none of {len(found)} captions has an image among {len(store)} feature records"
        )
    return {"rows": rows, "image_rows": found[rows]}


def _read_strings(source: FeatureSource, name: str) -> Any:
    """Read a column of the captions, every row a string."""
    path = source.captions_path
    with fetching(path):
        try:
            with _open_captions(source) as stream:
                file = pq.ParquetFile(stream)
                if name not in file.schema_arrow.names:
                    raise InputError(f"{path} has no column {name}; captions need caption_id, image_key and text")
                values = file.read(columns=[name])[name]
        except PermissionError:
            raise
        # Arrow has errors of its own, and reports some kinds of damage as an OSError.
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path}: column {name} of the captions cannot be read ({reason}); make it again"
            ) from error
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise InputError(f"{path}: column {name} holds {values.type}, not strings; convert it")
    if values.null_count:
        raise InputError(f"{path}: column {name} has {values.null_count} empty cells (null); remove these rows")
    return values


def _open_captions(source: FeatureSource) -> IO[bytes]:
    if "://" not in source.captions_path:
        return _local_captions(source).open("rb")
    fs, path = connect(source.captions_path)
    stream: IO[bytes] = fs.open(path, "rb")
    return stream


def _local_captions(source: FeatureSource) -> Path:
    path = Path(source.captions_path)
    if not path.is_file():
        raise InputError(f"{source.name}: its captions {path} are not a file; set captions_path")
    return path


def _captions_digest(source: FeatureSource) -> str:
    """Sha256 of the file; on an object store, of the store's facts about this version of the file."""
    if "://" in source.captions_path:
        fs, path = connect(source.captions_path)
        try:
            with fetching(source.captions_path):
                return str(fs.ukey(path))
        except FileNotFoundError as error:
            raise InputError(
                f"{source.name}: there are no captions {source.captions_path}; set captions_path"
            ) from error
    with _local_captions(source).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
