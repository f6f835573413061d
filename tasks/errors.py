"""What the command line prints without a traceback: errors that explain themselves."""

from __future__ import annotations

import errno


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
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
