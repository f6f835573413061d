"""Make a file that several processes want once, whole or not at all.

Not every file system of a cluster does all that a local disk does. Where one knows no locks (Lustre without its option
`flock`, NFS without its lock daemon), processes of one user on one machine are still kept apart; where it does not
write a folder to the disk when asked (CIFS, much of FUSE), it is left to do so in its own time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
_NO_SYNC = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EISDIR}
)
_log = logging.getLogger(__name__)


class Lock:
    """A lock among processes, held on a file of its own. The kernel drops it when its process ends.

    The file stays: whoever deleted it could leave two processes with a lock each; see `is_on`. Where its file system
    knows no locks, it is held on a file of this user's in the machine's folder for temporary ones.
    """

    def __init__(self, path: Path, create: bool = True) -> None:
        """Open the file, or make it.

        Args:
            path: of the file.
            create: False: only look at one that is there, as `is_held` does.

        Raises:
            FileNotFoundError: it is not there and not to be made, or its folder is not.
        """
        self._path = path
        self._descriptor = os.open(path, (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY) | os.O_CLOEXEC, 0o666)
        self._stand_in = -1

    def share(self) -> None:
        """Wait until nobody holds it alone, then share it. Releases what was held before."""
        self._lock(fcntl.LOCK_SH)

    def hold(self) -> None:
        """Wait until nobody else has it, then hold it. Releases what was held before."""
        self._lock(fcntl.LOCK_EX)

    def try_hold(self) -> bool:
        """Hold it if nobody else has it now. Releases what was held before, in any case."""
        return self._try(fcntl.LOCK_EX)

    def is_held(self) -> bool:
        """Whether another process holds it alone now. Releases what was held before."""
        free = self._try(fcntl.LOCK_SH)
        self._lock(fcntl.LOCK_UN)
        return not free

    def is_on(self, path: Path) -> bool:
        """Whether the file of this name is the locked one, not another that replaced it."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        for descriptor in (self._descriptor, self._stand_in):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._stand_in = -1

    def _try(self, operation: int) -> bool:
        self._lock(fcntl.LOCK_UN)
        try:
            self._lock(operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _lock(self, operation: int) -> None:
        if self._stand_in < 0:
            try:
                fcntl.flock(self._descriptor, operation)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                _warn_of_no_locks(str(self._path.parent), error.strerror or "")
                self._stand_in = _open_stand_in(self._path)
            else:
                return
        fcntl.flock(self._stand_in, operation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def part_of(path: Path) -> Path:
    """The path of a file before it is published."""
    return path.with_name(path.name + ".part")


def publish(path: Path) -> None:
    """Give a fully written `.part` its final name, on the disk too."""
    part = part_of(path)
    sync(part)
    part.replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    part_of(path).write_text(text, encoding="utf-8")
    publish(path)


def sync(path: Path) -> None:
    """Flush a file to the disk."""
    descriptor = os.open(path, os.O_RDWR)  # Some network file systems write nothing out for a reader.
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where its file system does that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def disk_room(path: Path) -> str:
    """The room on the disk of a path, existing or not: `1.2 MB of 64.0 GB free on /data`."""
    place = path.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        about = os.statvfs(place)
        while not place.is_mount() and place != place.parent:
            place = place.parent
    except OSError as error:
        return f"its room is not known: {error.strerror}"
    text = f"{_size(about.f_bavail * about.f_frsize)} of {_size(about.f_blocks * about.f_frsize)} free on {place}"
    # Full of small files, a disk has room and takes none.
    return f"{text}, which holds as many files as it can" if about.f_files and not about.f_favail else text


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1000:,.0f} kB"


def _open_stand_in(path: Path) -> int:
    """Open a local file in place of one whose file system knows no locks; its name is that one's digest."""
    folder = Path(tempfile.gettempdir()) / f"unicoder-vl-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@cache
def _warn_of_no_locks(folder: str, reason: str) -> None:
    """Warn once of each folder."""
    _log.warning(
        "the file system of %s knows no locks (%s): only your processes on this machine are kept apart; see that no "
        "other machine or user does the same work at the same time",
        folder,
        reason,
    )
