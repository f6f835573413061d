"""Examples of a task, read from its typed table and joined to a feature store by key.

A row is an example: its texts, one or two images, boxes and choices where the task has them, and at most one target.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.order import Index
from model.errors import InputError

FORMAT = "examples/1"
_ANSWERS = pa.list_(pa.struct([("answer", pa.string()), ("score", pa.float32())]))
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_keys", pa.list_(pa.string()), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float32()))),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("target_index", pa.int64()),
        pa.field("target_answers", _ANSWERS),
        pa.field("target_box", pa.int64()),
        pa.field("raw_id", pa.string(), nullable=False),
    ],
    metadata={"format": FORMAT},
)
"""boxes are (x0, y0, x1, y1) in pixels of the stored image. target_index is a label or one of the choices,
target_box one of the boxes; at most one of the three targets is set, none on test splits. raw_id is the published
file's own."""

_SHOWN = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """The N examples of a split whose images have regions, in row order.

    Attributes:
        ids: of the examples.
        texts: of each, one or more.
        image_rows: (N, 2) positions in the feature store; -1 where there is no second image.
        boxes: of each (K, 4) f32; None where none are given.
        choices: of each; empty where there are none.
        target_index, target_box: (N,) i64; -1 where there is none.
        target_answers: answer and score, of each; empty where there are none.
        missing: ids of the examples that were left out because an image of theirs has no features.
        digest: sha256 of the table.
    """

    ids: Sequence[str]
    texts: Sequence[Sequence[str]]
    image_rows: Index
    boxes: Sequence[npt.NDArray[np.float32] | None]
    choices: Sequence[Sequence[str]]
    target_index: Index
    target_box: Index
    target_answers: Sequence[Sequence[tuple[str, float]]]
    missing: Sequence[str]
    digest: str

    def __len__(self) -> int:
        return len(self.ids)

    def pick(self, rows: Index) -> Examples:
        """The examples of these rows."""
        lists = ("ids", "texts", "boxes", "choices", "target_answers")
        picked: dict[str, Any] = {name: [getattr(self, name)[row] for row in rows] for name in lists}
        picked |= {name: getattr(self, name)[rows] for name in ("image_rows", "target_index", "target_box")}
        return replace(self, **picked)


def load_examples(path: Path, keys: Sequence[str]) -> Examples:
    """Read a table and find its images.

    Args:
        keys: of the feature store's images, by row.

    Raises:
        InputError: the table cannot be read, a row is not as `check_rows` wants it, or no example has its images.
    """
    rows = read_rows(path)
    row_of = {key: row for row, key in enumerate(keys)}
    found = [row for row in rows if all(key in row_of for key in row["image_keys"])]
    missing = [row["id"] for row in rows if any(key not in row_of for key in row["image_keys"])]
    if not found:
        raise InputError(f"{path}: none of {len(rows)} examples has its images among {len(row_of)} feature records")
    if missing:
        _log.warning(
            "%s: %d of %d examples are left out, an image of theirs having no features: %s%s",
            path,
            len(missing),
            len(rows),
            ", ".join(missing[:_SHOWN]),
            ", ..." if len(missing) > _SHOWN else "",
        )
    image_rows = np.full((len(found), 2), -1, np.int64)
    for number, row in enumerate(found):
        image_rows[number, : len(row["image_keys"])] = [row_of[key] for key in row["image_keys"]]
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Examples(
        ids=[row["id"] for row in found],
        texts=[row["texts"] for row in found],
        image_rows=image_rows,
        boxes=[None if row["boxes"] is None else np.array(row["boxes"], np.float32).reshape(-1, 4) for row in found],
        choices=[row["choices"] or [] for row in found],
        target_index=_numbers(found, "target_index"),
        target_box=_numbers(found, "target_box"),
        target_answers=[[(one["answer"], one["score"]) for one in row["target_answers"] or ()] for row in found],
        missing=missing,
        digest=digest,
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, checked.

    Raises:
        InputError: it is absent, damaged, of another format, or a row is wrong.
    """
    if not path.is_file():
        raise InputError(f"there is no table of examples {path}; prepare the task's split first")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: the table of examples cannot be read ({reason}); make it again") from error
    given = (table.schema.metadata or {}).get(b"format", b"no format").decode(errors="replace")
    if given != FORMAT:
        raise InputError(f"{path} says {given}, not {FORMAT}; prepare the task's split with this version")
    for field in SCHEMA:
        if field.name not in table.column_names:
            raise InputError(f"{path} has no column {field.name}; make it again")
        if (kind := table.schema.field(field.name).type) != field.type:
            raise InputError(f"{path}: column {field.name} holds {kind}, not {field.type}; make it again")
    rows: list[dict[str, Any]] = table.to_pylist()
    check_rows(rows, str(path))
    return rows


def check_rows(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Raise InputError, naming row and field, where an example is not as the format says.

    Args:
        name: of the file, for the message.
    """
    ids: set[str] = set()
    for number, row in enumerate(rows):
        if (fault := _fault(row, ids)) is not None:
            raise InputError(f"{name}, row {number} ({row['id']!r}): {fault}")
        ids.add(row["id"])


def _fault(row: dict[str, Any], ids: set[str]) -> str | None:
    boxes, choices, answers = row["boxes"], row["choices"], row["target_answers"]
    targets = [name for name in ("target_index", "target_answers", "target_box") if row[name] is not None]
    if not row["id"] or row["id"] in ids:
        return "id is empty" if not row["id"] else "id comes twice"
    if row["image_keys"] is None or len(row["image_keys"]) not in (1, 2) or not all(row["image_keys"]):
        return f"image_keys is {row['image_keys']}; it needs one or two keys"
    if not row["texts"] or any(text is None for text in row["texts"]):
        return f"texts is {row['texts']}; it needs one or more"
    if boxes is not None:
        for box in boxes:
            if box is None or len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
                return f"boxes has {box}; a box is x0, y0, x1, y1 with x0 < x1 and y0 < y1"
    if len(targets) > 1:
        return f"{' and '.join(targets)} are both set; an example has one target or none"
    for name, among in (("target_index", choices), ("target_box", boxes)):
        limit = None if among is None else len(among)
        if row[name] is not None and (row[name] < 0 or (limit is not None and row[name] >= limit)):
            return f"{name} is {row[name]}; it must be from 0 to {'...' if limit is None else limit - 1}"
    if row["target_box"] is not None and boxes is None:
        return "target_box is set but boxes is not"
    if any(one is None or not 0 <= (one["score"] or 0) <= 1 for one in answers or ()):
        return "target_answers has a score that is not from 0 to 1"
    return None


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> Index:
    return np.array([-1 if row[name] is None else row[name] for row in rows], np.int64)
