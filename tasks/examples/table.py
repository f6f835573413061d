"""Write a task's examples under a root: one typed table a split, and its receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from model.data.examples import FORMAT, SCHEMA, check_rows
from tasks.records import FileDigest, Record
from tasks.storage.paths import examples_path, examples_receipt_path
from tasks.storage.root import Root, now


class ExamplesReceipt(Record):
    """What a table of examples was made of; written after it."""

    format: str = Field(default=FORMAT, description="of the table")
    task: str = Field(description="name of the task")
    used: int = Field(description="examples in the table")
    dropped: dict[str, int] = Field(description="examples of the published files that were left out, by reason")
    file: FileDigest
    created_at: str = Field(description="UTC, ISO 8601")


def write_examples(
    root: Root,
    task: str,
    dataset: str,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    dropped: Mapping[str, int] | None = None,
) -> ExamplesReceipt:
    """Write the examples of a split, whole or not at all.

    Args:
        rows: fields as in `model.data.examples.SCHEMA`; those that a task does not have may be left out.
        dropped: examples that were left out of the published files, by reason.

    Raises:
        InputError: a row is not as the format says; nothing was written.
    """
    unknown = sorted({name for row in rows for name in row} - set(SCHEMA.names))
    assert not unknown, unknown
    full = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    check_rows(full, f"examples of {dataset}/{split}")
    table = pa.Table.from_pylist(full, schema=SCHEMA)
    digest = root.publish(examples_path(dataset, split), lambda stream: pq.write_table(table, stream))
    receipt = ExamplesReceipt(task=task, used=len(full), dropped=dict(dropped or {}), file=digest, created_at=now())
    root.publish_model(examples_receipt_path(dataset, split), receipt)
    return receipt
