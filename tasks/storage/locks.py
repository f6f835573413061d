"""Locks by name for work that two processes must not do at once: a training run, a feature shard, an import.

    ROOT/locks/NAME.lock      while the work goes on; of a root on an object store, in this user's cache

Processes of one machine are kept apart; on a shared local root, those of all machines whose file system has locks.
The kernel drops a lock when its process ends, however it ends: a file that is left behind holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model.publish import Lock
from tasks.errors import StageError
from tasks.storage.local_copy import local_copy
from tasks.storage.root import Root


@contextmanager
def alone(root: Root, name: str, work: str) -> Iterator[None]:
    """Hold the lock of some work while the block runs.

    Args:
        root: under which the work is done.
        name: of the work, as a file name.
        work: the same for people, such as `training finetune-0123`.

    Raises:
        StageError: another process is at it.
    """
    path = _path(root, name)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(path)
        except (FileExistsError, FileNotFoundError):
            if path.parent.is_file():
                raise
            continue  # Whoever had the last lock of the folder has just removed it.
        with lock:
            if not lock.try_hold():
                raise _taken(root, work)
            # Whoever had it before may have removed the file just before: then ours is none of that name.
            if not lock.is_on(path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # Others may have locks of their own there.
                    path.parent.rmdir()
            return


def check_free(root: Root, name: str, work: str) -> None:
    """Raise StageError early if another process is at some work; see `alone`."""
    with suppress(FileNotFoundError), Lock(_path(root, name), create=False) as lock:
        if lock.is_held():
            raise _taken(root, work)


def _path(root: Root, name: str) -> Path:
    return local_copy(root).local(f"locks/{name}.lock")


def _taken(root: Root, work: str) -> StageError:
    return StageError(
        f"another process is {work} under {root.uri} just now; let it end, then run the same command again"
    )
