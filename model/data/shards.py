"""Open shards of a local folder, and the interface that `shard_cache.py` shares."""

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
"""Bytes of a tar header that hold the member's name, padded with zeros."""
_MOST_OPEN = 256


class ShardFile:
    """An open shard, closed when nobody refers to it: a thread can go on reading what a cache has dropped.

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
    """The shards of one feature set, numbered by position in the manifest. Safe to share among threads."""

    def faults(self) -> dict[int, str]:
        """The shards with a fault that a listing shows, and the fault."""

    def slices(self, shard: int, stride: int, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """(samples, size) the bytes from `offset` on of each record; records begin at multiples of `stride` bytes."""

    def open(self, shard: int) -> ShardFile:
        """Open the shard for reading."""

    def expect(self, shards: Sequence[int]) -> None:
        """Expect these shards to be read next, in about this order, and no others."""

    def close(self) -> None:
        """Release everything."""


def read_names(shards: Shards, shard: int, stride: int) -> npt.NDArray[np.bytes_]:
    """Tar members' names (samples,)."""
    return shards.slices(shard, stride, 0, NAME_BYTES).view(f"S{NAME_BYTES}")[:, 0]


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

    def slices(self, shard: int, stride: int, offset: int, size: int) -> npt.NDArray[np.uint8]:
        entry = self._entries[shard]
        # Opened for this once: preparing an index goes through all shards.
        file = self._open(shard)
        found = np.zeros((entry.samples, size), np.uint8)
        for position in range(entry.samples):
            os.preadv(file.descriptor, [found[position]], position * stride + offset)
        return found

    def expect(self, shards: Sequence[int]) -> None:
        """Nothing to do: they are here."""

    def close(self) -> None:
        self.open.cache_clear()

    def _open(self, shard: int) -> ShardFile:
        return ShardFile(self._folder / self._entries[shard].name, self._entries[shard])
