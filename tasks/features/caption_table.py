"""The captions of a split, found by the key of their image."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.storage.paths import captions_path
from tasks.storage.root import Root

_COLUMNS = ("caption_id", "image_key", "text")


@dataclass(frozen=True)
class _Columns:
    """Arrow arrays: image keys, ascending; the row of each; the two other columns by row."""

    keys: Any
    rows: Any
    ids: Any
    texts: Any


class CaptionTable:
    """Reads the table once per process and keeps it as Arrow does: 3 million captions take about 300 MB."""

    def __init__(self, root: Root, dataset: str, split: str) -> None:
        """Read the table.

        Raises:
            UserError: there is none, or it is not a table of captions.
        """
        self._root_uri, self._dataset, self._split = root.uri, dataset, split
        self._columns: _Columns | None = self._load()

    def find(self, key: str) -> tuple[list[str], list[str]]:
        """Ids and texts of an image's captions, in the order of the table; empty for an image without."""
        if self._columns is None:
            self._columns = self._load()
        found = self._columns
        every = range(len(found.keys))
        first = bisect_left(every, key, key=lambda place: found.keys[place].as_py())
        stop = bisect_right(every, key, lo=first, key=lambda place: found.keys[place].as_py())
        rows = found.rows.slice(first, stop - first)
        return found.ids.take(rows).to_pylist(), found.texts.take(rows).to_pylist()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the table out: another process that unpickles this reads it again."""
        return self.__dict__ | {"_columns": None}

    def _load(self) -> _Columns:
        import pyarrow.compute as pc  # It makes its functions as it is imported.

        root, name = Root(self._root_uri), f"{self._dataset}/{self._split}"
        path = captions_path(self._dataset, self._split)
        if not root.exists(path):
            raise UserError(
                f"{name} has no captions under {root.uri}; run `unicoder-vl download` to its end, or read without them "
                "(captions=False)"
            )
        try:
            with root.open(path) as stream:
                table = pq.read_table(stream)
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{root.path(path)} cannot be read ({reason}); make it again") from error
        for column in _COLUMNS:
            if column not in table.column_names:
                raise UserError(f"{root.path(path)} has no column {column}; captions need {', '.join(_COLUMNS)}")
            kind = table[column].type
            if table[column].null_count or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise UserError(f"{root.path(path)}: column {column} holds {kind} or empty cells; it needs strings")
        # Large strings: offsets of 32 bits would overflow where a column is put together anew.
        ids, keys, texts = (table[column].cast(pa.large_string()).combine_chunks() for column in _COLUMNS)
        rows = pc.array_sort_indices(keys)  # Stable.
        return _Columns(keys.take(rows), rows, ids, texts)
