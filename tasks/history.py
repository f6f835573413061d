"""The history: one line per evaluation, appended and never changed."""

from __future__ import annotations

import hashlib
import threading
from functools import cache
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError

from tasks.errors import UserError
from tasks.records import HistoryRow
from tasks.storage import HISTORY, Root

_ROOMS = ("flows", "tasks", "model", "feature_extraction")
_append_lock = threading.Lock()


def read_history(root: Root) -> list[HistoryRow]:
    """Every evaluation so far, oldest first.

    A last line without its newline is one that a killed process did not finish; it is left out.

    Raises:
        UserError: a finished line is not a history row.
    """
    if not root.exists(HISTORY):
        return []
    rows = []
    for number, line in enumerate(root.read_bytes(HISTORY).splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            rows.append(HistoryRow.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            raise UserError(
                f"{root.path(HISTORY)}, line {number} is not a history row "
                f"({'.'.join(map(str, problem['loc'])) or 'content'}: {problem['msg']}); mend or remove that line"
            ) from error
    return rows


def find_row(root: Root, setting: str, checkpoint_fingerprint: str, data_fingerprint: str) -> HistoryRow | None:
    """The row of this setting, checkpoint and data, if it was ever evaluated."""
    wanted = (setting, checkpoint_fingerprint, data_fingerprint)
    for row in read_history(root):
        if (row.setting, row.checkpoint_fingerprint, row.data_fingerprint) == wanted:
            return row
    return None


def append_history(root: Root, row: HistoryRow) -> HistoryRow:
    """Append a row, unless its setting, checkpoint and data stand there already; the row that stands."""
    with _append_lock:
        standing = find_row(root, row.setting, row.checkpoint_fingerprint, row.data_fingerprint)
        if standing is not None:
            return standing
        _end_last_line(root)
        root.append_line(HISTORY, row.model_dump_json())
    return row


def _end_last_line(root: Root) -> None:
    """Drop what a killed process left of its line, so that the next row begins on a line of its own."""
    if not root.exists(HISTORY):
        return
    content = root.read_bytes(HISTORY)
    if content and not content.endswith(b"\n"):
        root.publish_bytes(HISTORY, content[: content.rfind(b"\n") + 1])


@cache
def code_version() -> str:
    """Version of the package and twelve digits of a hash over its source files, for instance 0.1.0+3f9a0c2d71be.

    The hash tells apart what an edited checkout made, with or without git.
    """
    try:
        version = metadata.version("unicoder-vl")
    except metadata.PackageNotFoundError:
        version = "0"
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(file for room in _ROOMS for file in (folder / room).rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{version}+{digest.hexdigest()[:12]}"
