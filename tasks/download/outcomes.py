"""The outcome table of an image shard: how every row ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.records import Outcome, ShardRef
from tasks.storage.paths import outcomes_path
from tasks.storage.root import Root

OUTCOMES_FORMAT = "outcomes/2"


@dataclass(frozen=True)
class RowOutcome:
    """One line of the outcome table; every manifest row of the shard has one, in key order.

    `attempts` is 0 where nothing was requested, and so is `tried_at`, the time of the last attempt in seconds since
    1970. `seconds` is the time spent on all attempts. `http_status` is that of the last answer. `width` and `height`
    are those of the stored image in pixels, `bytes` its size, `sha256` is of the bytes received; all four only where
    the outcome is ok.
    """

    key: str
    url: str
    image_key: str
    outcome: Outcome
    detail: str = ""
    attempts: int = 0
    tried_at: int = 0
    seconds: float = 0.0
    http_status: int | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    sha256: str | None = None


_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("image_key", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("tried_at", pa.int64()),
        ("seconds", pa.float32()),
        ("http_status", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int32()),
        ("sha256", pa.string()),
    ],
    metadata={"format": OUTCOMES_FORMAT},
)
assert _SCHEMA.names == [field.name for field in fields(RowOutcome)]


def write_outcomes(stream: IO[bytes], outcomes: Sequence[RowOutcome]) -> None:
    table = pa.Table.from_pylist([vars(outcome) for outcome in outcomes], schema=_SCHEMA)
    pq.write_table(table, stream, compression="zstd")


def read_outcomes(root: Root, ref: ShardRef) -> list[RowOutcome]:
    """Read all lines of a shard's table, in key order.

    Raises:
        UserError: as `read_outcome_columns`.
    """
    lines = read_outcome_columns(root, ref, _SCHEMA.names).to_pylist()
    return [RowOutcome(**{**line, "outcome": Outcome(line["outcome"])}) for line in lines]


def read_outcome_columns(root: Root, ref: ShardRef, columns: Sequence[str]) -> Any:
    """Read some columns of a shard's table, as a pyarrow table.

    Raises:
        UserError: there is no such table, or it is of another format.
    """
    path = outcomes_path(ref.dataset, ref.split, ref.shard)
    try:
        with root.open(path) as stream:
            table: Any = pq.read_table(stream, columns=list(columns))
    except FileNotFoundError as error:
        raise UserError(f"{root.path(path)} is missing; run: unicoder-vl download") from error
    found = (table.schema.metadata or {}).get(b"format", b"").decode()
    if found != OUTCOMES_FORMAT:
        raise UserError(
            f"{root.path(path)} has format {found!r}, expected {OUTCOMES_FORMAT!r}; run: unicoder-vl download --force"
        )
    return table
