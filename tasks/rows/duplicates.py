"""The first of equal things among many: digests are sorted on disk, so memory does not grow with them."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

DIGEST_BYTES = 16
MOST_ROWS = 1_000_000_000  # Row numbers are 32 bits here, and nine digits in a key.

_BUCKETS = 256  # By the digest's first byte. A bucket is sorted in memory: 1/256 of 24 bytes a row.
_RECORD = np.dtype([("digest", "<u8", 2), ("row", "<u4")])


class FirstRows:
    """Finds the first row with the same digest, for every row.

    Args:
        folder: an empty folder for temporary files: 20 bytes for each row added, and 4 for each row in all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bounds: list[
            Any
        ] = []  # Per batch, (257,) record numbers in the file: where each bucket begins, and the end.
        self._records = 0
        self._file: IO[bytes] = (folder / "digests").open("wb+")

    def add(self, rows: Any, digests: bytes) -> None:
        """Add a batch of rows.

        Args:
            rows: (N,) numbers, ascending, and above those of all batches before.
            digests: N times DIGEST_BYTES bytes.
        """
        records = np.empty(len(rows), _RECORD)
        records["digest"] = np.frombuffer(digests, "<u8").reshape(-1, 2)
        records["row"] = rows
        buckets = records["digest"][:, 0] % _BUCKETS  # Little-endian: the first byte.
        order = np.argsort(buckets, kind="stable")
        self._file.write(records[order].tobytes())
        sizes = np.bincount(buckets.astype(np.intp), minlength=_BUCKETS)
        self._bounds.append(np.concatenate([[0], np.cumsum(sizes)]) + self._records)
        self._records += len(rows)

    def resolve(self, num_rows: int) -> tuple[Any, int]:
        """The first row of every row, once all batches have been added.

        Returns:
            (num_rows,) uint32 on disk, 1 + the number of the first row for every row whose digest an earlier row has,
            else 0; and how many such rows there are.
        """
        firsts = np.memmap(self._folder / "firsts", np.uint32, "w+", shape=(max(num_rows, 1),))
        duplicates = 0
        for bucket in range(_BUCKETS):
            records = self._bucket(bucket)
            low, high = records["digest"][:, 0], records["digest"][:, 1]
            order = np.lexsort((high, low))  # Stable: of equal digests the first row stays first.
            low, high, rows = low[order], high[order], records["row"][order]
            is_first = np.ones(len(rows), bool)
            is_first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
            first_of = rows[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
            firsts[rows[~is_first]] = first_of[~is_first] + 1
            duplicates += int(np.count_nonzero(~is_first))
        return firsts[:num_rows], duplicates

    def close(self) -> None:
        self._file.close()

    def _bucket(self, bucket: int) -> Any:
        """A bucket's records of all batches, by row."""
        parts = [b""]
        for bounds in self._bounds:
            begin, end = int(bounds[bucket]), int(bounds[bucket + 1])
            self._file.seek(begin * _RECORD.itemsize)
            parts.append(self._file.read((end - begin) * _RECORD.itemsize))
        return np.frombuffer(b"".join(parts), _RECORD)
