"""What the command line prints without a traceback: errors that explain themselves."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.publish import disk_room

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKES_NO_MORE = (*_FULL, errno.EFBIG, errno.EROFS)


class UserError(ValueError):
    """Bad input: the user can mend this. The message is one sentence: what, where, what to do. Exit code 2."""


class StageError(RuntimeError):
    """A stage failed. The message says which part, and where its log or its other parts are. Exit code 1."""


class StorageError(StageError):
    """The store of a root that is no local folder does not answer: no shard could be done, whichever it is."""


class WorkersGoneError(StageError):
    """No worker is left, and none can be had: no shard could be done, whichever it is."""


def is_disk_full(error: OSError) -> bool:
    """True where there is no room left on a disk, or in someone's share of it."""
    return error.errno in _FULL


def disk_full_text(error: OSError) -> str:
    """What is full, how full, and what to do; a sentence."""
    advice = "free some space and run the same command again, it goes on from here"
    if not error.filename:
        return f"the disk is full; {advice}"
    if error.errno == errno.EDQUOT:
        return f"your share of the disk is used up while writing {error.filename}; {advice}"
    return f"the disk is full while writing {error.filename} ({disk_room(Path(error.filename))}); {advice}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Have errors of a disk that takes no more name what was written: a write's do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _TAKES_NO_MORE:
            error.filename = str(path)
        raise
