"""Errors that explain themselves: the command line prints them without a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.publish import disk_room

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKES_NO_MORE = (*_FULL, errno.EFBIG, errno.EROFS)


class UserError(ValueError):
    """Bad input that the user can correct. The message is one sentence: what, where, what to do. Exit code 2."""


class StageError(RuntimeError):
    """A stage failed. The message says which part, and where its log or its other parts are. Exit code 1."""


class StorageError(StageError):
    """The root's object store does not answer, so no shard could be done."""


class WorkersGoneError(StageError):
    """No worker is left, and none can be had, so no shard could be done."""


def is_disk_full(error: OSError) -> bool:
    """True where a disk, or a user's quota on it, has no room left."""
    return error.errno in _FULL


def disk_full_text(error: OSError) -> str:
    """A sentence: which disk is full, how full, and what to do."""
    advice = "free some space and run the same command again, it goes on from here"
    if not error.filename:
        return f"the disk is full; {advice}"
    if error.errno == errno.EDQUOT:
        return f"your share of the disk is used up while writing {error.filename}; {advice}"
    return f"the disk is full while writing {error.filename} ({disk_room(Path(error.filename))}); {advice}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors of a full disk: those of a write do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _TAKES_NO_MORE:
            error.filename = str(path)
        raise
