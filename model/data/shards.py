"""Open shards: of a local folder here, of an object store in `shard_cache.py`."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feature_extraction.samples.manifest import ShardEntry
from feature_extraction.samples.tars import ShardError
from model.publish import Lock

TAR_HEADER = 512
NAME_BYTES = 100
"""Of a tar header: the member's name, padded with zeros."""
_MOST_OPEN = 256


class ShardFile:
    """An open shard. Closed when nobody refers to it any more, so a thread can go on reading what a cache has dropped.

    Raises:
        ShardError: missing, unreadable, or of another size than the manifest's.
    """

    def __init__(self, path: Path, entry: ShardEntry, lock: Lock | None = None) -> None:
        self._lock = lock
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(self.descriptor).st_size
        except FileNotFoundError as error:
            raise ShardError(f"{path} is missing") from error
        if size != entry.bytes:
            raise ShardError(f"{path} has {size} bytes, but the manifest says {entry.bytes}")

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self._lock is not None:
            self._lock.close()


class Shards(Protocol):
    """Where the shards of one feature set lie. Numbers are positions in the manifest. Safe to share among threads."""

    def faults(self) -> dict[int, str]:
        """What is wrong with which shard, as far as a listing tells."""

    def names(self, shard: int, stride: int) -> npt.NDArray[np.bytes_]:
        """Name of the tar member that begins at each multiple of `stride` bytes, one per sample."""

    def open(self, shard: int) -> ShardFile:
        """The shard, ready to be read."""

    def expect(self, shards: Sequence[int]) -> None:
        """These shards will be read next, in about this order, and no others for a while."""

    def close(self) -> None:
        """Let go of everything."""


class LocalShards:
    """Shards of a local folder. Only the most recently used ones stay open, below the process's limit of files."""

    def __init__(self, folder: Path, entries: Sequence[ShardEntry]) -> None:
        self._folder, self._entries = folder, entries
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST_OPEN if soft == resource.RLIM_INFINITY else min(_MOST_OPEN, soft // 4)
        self.open = lru_cache(maxsize=max(most, 1))(self._open)

    def faults(self) -> dict[int, str]:
        sizes = {file.name: file.stat().st_size for file in os.scandir(self._folder) if file.is_file()}
        found = {}
        for shard, entry in enumerate(self._entries):
            size = sizes.get(entry.name)
            if size is None:
                found[shard] = f"{self._folder / entry.name} is missing"
            elif size != entry.bytes:
                found[shard] = f"{self._folder / entry.name} has {size} bytes, but the manifest says {entry.bytes}"
        return found

    def names(self, shard: int, stride: int) -> npt.NDArray[np.bytes_]:
        entry = self._entries[shard]
        # Opened for this once: preparing an index goes through all shards.
        file = self._open(shard)
        heads = np.zeros((entry.samples, NAME_BYTES), np.uint8)
        for position in range(entry.samples):
            os.preadv(file.descriptor, [heads[position]], position * stride)
        return heads.view(f"S{NAME_BYTES}")[:, 0]

    def expect(self, shards: Sequence[int]) -> None:
        """Nothing to do: they are here."""

    def close(self) -> None:
        self.open.cache_clear()

    def _open(self, shard: int) -> ShardFile:
        return ShardFile(self._folder / self._entries[shard].name, self._entries[shard])
