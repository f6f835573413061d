"""The table of pictures without regions, beside a feature shard: key and reason."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

_SCHEMA = pa.schema([("key", pa.string()), ("detail", pa.string())], metadata={"format": "failed/1"})


def failure_table(failures: Iterable[tuple[str, str]]) -> bytes:
    """The Parquet file of (key, detail) rows."""
    rows = [{"key": key, "detail": detail} for key, detail in failures]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), buffer)
    return buffer.getvalue()
