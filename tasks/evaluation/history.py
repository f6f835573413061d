"""The history: one line per evaluation, appended and never changed."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError

from model.publish import Lock
from tasks.errors import UserError
from tasks.records import FIRST_TASK, HistoryRow
from tasks.storage.paths import HISTORY
from tasks.storage.root import Root

_ROOMS = ("flows", "tasks", "model", "feature_extraction")
_append_lock = threading.Lock()


def read_history(root: Root) -> list[HistoryRow]:
    """Read every evaluation so far, oldest first.

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


def find_row(
    root: Root,
    setting: str,
    checkpoint_fingerprint: str,
    data_fingerprint: str,
    protocols: Sequence[str] = ("all",),
    task: str = FIRST_TASK,
) -> HistoryRow | None:
    """The row of this task, setting, checkpoint, data and protocols, if it was ever evaluated.

    Args:
        data_fingerprint: see `scored_data_fingerprint`; what a shortlist leaves out is part of it.
        protocols: the main one first.
    """
    wanted = (task, setting, checkpoint_fingerprint, data_fingerprint, tuple(protocols))
    return next((row for row in read_history(root) if _identity(row) == wanted), None)


def append_history(root: Root, row: HistoryRow) -> HistoryRow:
    """Append a row, unless its task, setting, checkpoint, data and protocols are there; the row that is."""
    with _append_lock, _alone(root):
        for former in read_history(root):
            if _identity(former) == _identity(row):
                return former
        _end_last_line(root)
        root.append_line(HISTORY, row.model_dump_json())
    return row


def _identity(row: HistoryRow) -> tuple[str, str, str, str, tuple[str, ...]]:
    """What tells evaluations apart. Rows of an older program name no protocol: theirs was `all`."""
    protocols = tuple(str(one.get("protocol", "all")) for one in (row.metrics, *row.metrics.get("also", ())))
    return row.task, row.setting, row.checkpoint_fingerprint, row.data_fingerprint, protocols


@contextmanager
def _alone(root: Root) -> Iterator[None]:
    """Keep other processes of this machine from appending. On an object store nothing does."""
    if not root.is_local:
        yield
        return
    path = root.local(HISTORY)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path) as lock:
        lock.hold()
        yield


def _end_last_line(root: Root) -> None:
    """Remove the part of a line that a killed process left, so that the next row begins on its own line."""
    if not root.exists(HISTORY):
        return
    content = root.read_bytes(HISTORY)
    if not content or content.endswith(b"\n"):
        return
    whole = content.rfind(b"\n") + 1
    if root.is_local:
        # In place: whoever waits for the lock has this very file open.
        os.truncate(root.local(HISTORY), whole)
    else:
        root.publish_bytes(HISTORY, content[:whole])


@cache
def code_version() -> str:
    """Version of the package and twelve digits of a hash over its source files, for instance 0.1.0+3f9a0c2d71be.

    The hash tells apart what an edited checkout made, with or without git.
    """
    try:
        version = metadata.version("unicoder-vl")
    except metadata.PackageNotFoundError:
        version = "0"
    folder = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in sorted(file for room in _ROOMS for file in (folder / room).rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{version}+{digest.hexdigest()[:12]}"
