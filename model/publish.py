"""How a file that several processes want is made once, and appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Lock:
    """A lock among processes, held on a file of its own. The kernel drops it when its process ends, however it ends.

    The file stays: whoever deleted it could leave two processes with a lock each.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def share(self) -> None:
        """Wait until nobody holds it alone; many may share it. Gives up what was held before."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def hold(self) -> None:
        """Wait until nobody else has it. Gives up what was held before."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def try_hold(self) -> bool:
        """Hold it if nobody else has it now. Gives up what was held before, in any case."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def part_of(path: Path) -> Path:
    """Where a file is written before it is published."""
    return path.with_name(path.name + ".part")


def publish(path: Path) -> None:
    """Give a fully written `.part` its final name, on the disk too."""
    part = part_of(path)
    sync(part)
    part.replace(path)
    sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that it is seen complete or not at all."""
    part_of(path).write_text(text, encoding="utf-8")
    publish(path)


def sync(path: Path) -> None:
    """Have a file or a folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
