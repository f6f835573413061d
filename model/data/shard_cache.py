"""Shards of an object store, fetched ahead into a bounded folder on the local disk.

The folder, shared by the processes of one machine and by runs one after another:

    NAME.SHA.tar         a whole shard whose size and sha256 were checked when it was fetched; SHA begins its sha256
    NAME.SHA.tar.part    one being fetched; it has its full size from the start, so that its room is taken
    NAME.SHA.tar.lock    held alone while fetching or deleting, shared by everyone who needs the shard now
    room.lock            held alone while room is made

A shard whose lock is shared is never deleted, and every process shares the locks of the shards of its current and next
window. Among the others, the one least recently needed goes first. Locks end with their process, so kill -9 leaves
nothing behind but a `.part`, which the next one removes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_extraction.samples.manifest import ShardEntry
from feature_extraction.samples.tars import ShardError
from model.data.order import WINDOW_SHARDS
from model.data.remote import fetching
from model.data.shards import ShardFile
from model.errors import InputError
from model.publish import Lock, disk_room, part_of, publish

_CHUNK_BYTES = 16 * 1024**2
_TRIES = 4
_FIRST_WAIT_SECONDS = 1.0
_ROOM_WAIT_SECONDS = 120.0
_ROOM_POLL_SECONDS = 0.1
_LOCK_POLL_SECONDS = 0.02
_log = logging.getLogger(__name__)


class ShardCache:
    """Shards under an fsspec URI, read through a cache folder that fetches expected ones ahead.

    Args:
        fs, base: the file system and the folder on it.
        limit_bytes: most that shards take of the folder, whoever put them there.

    Raises:
        InputError: the limit is below two windows.
    """

    def __init__(
        self, fs: Any, base: str, entries: Sequence[ShardEntry], folder: Path, limit_bytes: int, threads: int
    ) -> None:
        largest = sum(sorted((entry.bytes for entry in entries), reverse=True)[: 2 * WINDOW_SHARDS])
        if limit_bytes < largest:
            raise InputError(
                f"cache_bytes={limit_bytes} is too little for {base}: two windows of {WINDOW_SHARDS} shards take "
                f"{largest} bytes; raise it to that at least"
            )
        self._fs, self._base, self._entries = fs, base, entries
        self._folder, self._limit = folder, limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cache_path {folder} cannot be made ({error.strerror}); give another folder") from error
        self.fetched_bytes = 0
        # All below is guarded by the condition: what is expected and, once here, open; who is at work on which shard;
        # which ones could not be had ahead; since when readers wait for which.
        self._changed = threading.Condition()
        self._expected: dict[int, ShardFile | None] = {}
        self._busy: set[int] = set()
        self._failed: set[int] = set()
        self._awaited: dict[int, float] = {}
        self._closed = False
        for number in range(threads):
            # Daemons: a program that ends on an error does not first fetch what it expected.
            threading.Thread(target=self._work, name=f"shard-cache-{number}", daemon=True).start()

    def faults(self) -> dict[int, str]:
        with fetching(self._base):
            listing = self._fs.ls(self._base, detail=True)
        sizes = {str(about["name"]).rsplit("/", 1)[-1]: about["size"] for about in listing}
        found = {}
        for shard, entry in enumerate(self._entries):
            if sizes.get(entry.name) is None:
                found[shard] = f"{self._remote(shard)} is missing"
            elif sizes[entry.name] != entry.bytes:
                size = sizes[entry.name]
                found[shard] = f"{self._remote(shard)} has {size} bytes, but the manifest says {entry.bytes}"
        return found

    def slices(self, shard: int, stride: int, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """Read them by one small range request per sample: for millions, prepare the index where the features are
        local.
        """
        starts = [position * stride + offset for position in range(self._entries[shard].samples)]
        path = self._remote(shard)
        ends = [start + size for start in starts]
        with fetching(path):
            found = self._fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
        if any(len(part) != size for part in found):
            raise ShardError(f"{path} is shorter than the manifest says")
        return np.frombuffer(b"".join(found), np.uint8).reshape(len(starts), size)

    def open(self, shard: int) -> ShardFile:
        with self._changed:
            self._awaited[shard] = time.monotonic()
            self._changed.wait_for(lambda: shard not in self._busy)
            file = self._expected.get(shard)
            if file is None:
                # Done here, not by the workers, which may all be waiting for room.
                self._busy.add(shard)
        try:
            return file or self._fetch_claimed(shard)
        finally:
            with self._changed:
                self._awaited.pop(shard, None)

    def expect(self, shards: Sequence[int]) -> None:
        with self._changed:
            # A dropped shard is closed, and its lock with it, when the last reader is done.
            self._expected = {shard: self._expected.get(shard) for shard in shards}
            self._failed.clear()
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
        self.expect([])

    def _work(self) -> None:
        """Fetch expected shards in their order, until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                shard = self._next()
                if self._closed or shard is None:
                    return
                self._busy.add(shard)
            try:
                self._fetch_claimed(shard)
            except (ShardError, InputError, CancelledError):
                # A reader will meet the same error, and raise it.
                with self._changed:
                    self._failed.add(shard)

    def _next(self) -> int | None:
        absent = (shard for shard, file in self._expected.items() if file is None)
        return next((shard for shard in absent if shard not in self._busy and shard not in self._failed), None)

    def _fetch_claimed(self, shard: int) -> ShardFile:
        """Fetch a shard in the one thread that has claimed it in `_busy`; keep it open if it is expected."""
        try:
            file = self._acquire(shard)
            with self._changed:
                if shard in self._expected:
                    self._expected[shard] = file
            return file
        finally:
            with self._changed:
                self._busy.discard(shard)
                self._changed.notify_all()

    def _remote(self, shard: int) -> str:
        return f"{self._base}/{self._entries[shard].name}"

    def _acquire(self, shard: int) -> ShardFile:
        """Open a shard, fetched if need be, and share its lock while it is open."""
        entry = self._entries[shard]
        path = self._folder / f"{entry.name.removesuffix('.tar')}.{entry.sha256[:16]}.tar"
        lock = Lock(path.with_name(path.name + ".lock"))
        try:
            while True:
                lock.share()
                if _has_size(path, entry.bytes):
                    os.utime(path)
                    return ShardFile(path, entry, lock)
                # Not `hold`: another process may fetch it in between and then share the lock for a whole window.
                if lock.try_hold():
                    if not _has_size(path, entry.bytes):
                        path.unlink(missing_ok=True)
                        self._fetch(shard, path)
                else:
                    time.sleep(_LOCK_POLL_SECONDS)
        except OSError as error:
            lock.close()
            raise InputError(
                f"{path} cannot be kept ({error.strerror}; {disk_room(path)}); free space or set cache_path to "
                "another folder"
            ) from error
        except BaseException:
            lock.close()
            raise

    def _fetch(self, shard: int, path: Path) -> None:
        entry, part, digest = self._entries[shard], part_of(path), hashlib.sha256()
        part.unlink(missing_ok=True)
        self._reserve(shard, part)
        with part.open("r+b") as stream:
            for start in range(0, entry.bytes, _CHUNK_BYTES):
                end = min(start + _CHUNK_BYTES, entry.bytes)
                chunk = self._read(shard, start, end)
                if len(chunk) != end - start:
                    raise ShardError(f"{self._remote(shard)} is shorter than the {entry.bytes} bytes of the manifest")
                digest.update(chunk)
                stream.write(chunk)
            # Sync here, so that nobody waits for the disk below.
            stream.flush()
            os.fsync(stream.fileno())
        if digest.hexdigest() != entry.sha256:
            part.unlink()
            raise ShardError(f"{self._remote(shard)} has not the sha256 of the manifest")
        with Lock(self._folder / "room.lock") as room:
            # A process that counts files finds this shard under one name, not none or both.
            room.hold()
            publish(path)
        with self._changed:
            self.fetched_bytes += entry.bytes

    def _read(self, shard: int, start: int, end: int) -> bytes:
        wait = _FIRST_WAIT_SECONDS
        for number in range(1, _TRIES + 1):
            try:
                with fetching(self._remote(shard)):
                    return bytes(self._fs.cat_file(self._remote(shard), start=start, end=end))
            except FileNotFoundError as error:
                raise ShardError(f"{self._remote(shard)} is missing") from error
            except InputError as error:
                if number == _TRIES:
                    raise
                _log.warning("%s: %s; trying again in %g s", self._remote(shard), error.__cause__, wait)
                time.sleep(wait)
                wait *= 2
        raise AssertionError("the last try returns or raises")

    def _reserve(self, shard: int, part: Path) -> None:
        """Create a `.part` of the shard's size, once there is room for it.

        What is fetched ahead waits as long as others need the room. What a reader waits for takes, if need be, the
        room of what this process would need last: a batch may reach over more windows than the limit has room for.
        """
        while not self._try_reserve(part, self._entries[shard].bytes):
            with self._changed:
                awaited = self._awaited.get(shard)
                if awaited is not None:
                    self._give_up_last(shard)
                elif shard not in self._expected:
                    raise CancelledError
            if awaited is not None and time.monotonic() - awaited > _ROOM_WAIT_SECONDS:
                raise InputError(
                    f"{self._folder} is full of shards that are needed now: {part.name} found no room below "
                    f"cache_bytes={self._limit}; raise it, or give each run a cache_path of its own"
                )
            time.sleep(_ROOM_POLL_SECONDS)

    def _give_up_last(self, shard: int) -> None:
        """Expect one shard less: the last one that is there and is not `shard`."""
        there = [other for other, file in self._expected.items() if file is not None and other != shard]
        if there:
            del self._expected[there[-1]]

    def _try_reserve(self, part: Path, size: int) -> bool:
        with Lock(self._folder / "room.lock") as room:
            room.hold()
            for other in self._folder.glob("*.tar.part"):
                _delete_unless_locked(other, other.with_name(other.name.removesuffix(".part") + ".lock"))
            files = [path for path in self._folder.iterdir() if path.name.endswith((".tar", ".part"))]
            found = [(about.st_mtime_ns, about.st_size, path) for path in files if (about := _stat(path)) is not None]
            used = sum(length for _, length, _ in found)
            for _, length, path in sorted(found):
                if used + size <= self._limit:
                    break
                if path.suffix == ".tar" and _delete_unless_locked(path, path.with_name(path.name + ".lock")):
                    used -= length
            if used + size > self._limit:
                return False
            with part.open("wb") as stream:
                stream.truncate(size)
            return True


def _stat(path: Path) -> os.stat_result | None:
    """A file's status; None for one that is absent or no longer there."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _has_size(path: Path, size: int) -> bool:
    about = _stat(path)
    return about is not None and about.st_size == size


def _delete_unless_locked(path: Path, lock_path: Path) -> bool:
    """Delete a file that nobody uses; whether it was deleted."""
    with Lock(lock_path) as lock:
        if not lock.try_hold():
            return False
        path.unlink(missing_ok=True)
        return True
