"""The rows that an unfinished shard has fetched, on disk as they come: a killed download asks for none again.

    {"format": "journal/1", "fingerprint": "...", "over_table": false}\n
    entry*      lengths of JSON and JPEG and their CRC-32 (12 bytes, little-endian), JSON, JPEG

Append-only. Every entry is one `write` of its own, so a killed process loses at most the entry it was writing; what
is torn at the end is found by length and CRC and cut off. Against a power cut, entries are forced to disk every few
seconds. The journal goes when its shard has been published with its receipt.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from pathlib import Path
from typing import IO

from model.publish import Lock
from tasks.download.outcomes import RowOutcome
from tasks.errors import StageError, writing
from tasks.records import Outcome, ShardRef
from tasks.storage.local_copy import local_copy
from tasks.storage.paths import journal_path
from tasks.storage.root import Root

JOURNAL_FORMAT = "journal/1"

_LENGTHS = struct.Struct("<III")
_SYNC_SECONDS = 5.0


class Journal:
    """The journal of one shard, locked for this process: `with Journal(path, fingerprint) as journal: ...`.

    `outcomes` holds every row that has ended, by key. `over_table` is True where the journal's rows replace some of a
    published shard's, as when failures are tried again; what it does not hold is there.
    """

    def __init__(self, path: Path, fingerprint: str, over_table: bool) -> None:
        """Open the journal, or begin one.

        Args:
            path: of the journal file.
            fingerprint: of the shard's rows and settings; a journal of another one is of no use and begun anew.
            over_table: of a journal that is begun; one that goes on keeps its own.

        Raises:
            StageError: another process is at work on this shard.
        """
        self.path = path
        self.outcomes: dict[str, RowOutcome] = {}
        self._jpegs: dict[str, tuple[int, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._lock = _open_locked(path)
        self._synced_at = time.monotonic()
        try:
            header = _read_header(self._file)
            if header is not None and header.get("fingerprint") == fingerprint:
                self.over_table = bool(header["over_table"])
                self._read_entries()
            else:
                self.over_table = over_table
                self.restart(fingerprint, over_table)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def restart(self, fingerprint: str, over_table: bool) -> None:
        """Forget all entries."""
        self.outcomes.clear()
        self._jpegs.clear()
        self.over_table = over_table
        header = {"format": JOURNAL_FORMAT, "fingerprint": fingerprint, "over_table": over_table}
        self._file.truncate(0)
        self._file.seek(0)
        self._write_all(json.dumps(header).encode() + b"\n")

    def append(self, outcome: RowOutcome, jpeg: bytes | None) -> None:
        """Keep a row's outcome; `jpeg` is its image where that is ok."""
        about = json.dumps(vars(outcome)).encode()
        content = jpeg or b""
        head = _LENGTHS.pack(len(about), len(content), _checksum(about, content)) + about
        offset = self._file.tell()
        with writing(self.path):
            written = os.writev(self._file.fileno(), (head, content))
        if written < len(head) + len(content):
            self._write_all((head + content)[written:])
        self._note(outcome, offset, len(about), len(content))
        if time.monotonic() - self._synced_at > _SYNC_SECONDS:
            os.fdatasync(self._file.fileno())
            self._synced_at = time.monotonic()

    def jpeg(self, key: str) -> bytes:
        """The image of a row whose outcome is ok."""
        offset, length = self._jpegs[key]
        return os.pread(self._file.fileno(), length, offset)

    def remove(self) -> None:
        """Remove the file, once the shard holds everything."""
        self.path.unlink()

    def _close(self) -> None:
        self._file.close()
        self._lock.close()

    def _write_all(self, rest: bytes) -> None:
        """Write all bytes, though a signal or a nearly full disk cuts a write short."""
        with writing(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def _read_entries(self) -> None:
        """Read an earlier process's entries, and cut off a half-written one."""
        end = self._file.tell()
        size = os.fstat(self._file.fileno()).st_size
        while end + _LENGTHS.size <= size:
            about_bytes, jpeg_bytes, checksum = _LENGTHS.unpack(self._file.read(_LENGTHS.size))
            # After a power cut there may be anything. Zeros have a CRC of zero, so they look like an empty entry.
            if about_bytes == 0 or end + _LENGTHS.size + about_bytes + jpeg_bytes > size:
                break
            about, jpeg = self._file.read(about_bytes), self._file.read(jpeg_bytes)
            if _checksum(about, jpeg) != checksum:
                break
            fields = json.loads(about)
            outcome = RowOutcome(**{**fields, "outcome": Outcome(fields["outcome"])})
            self._note(outcome, end, about_bytes, jpeg_bytes)
            end = self._file.tell()
        self._file.truncate(end)
        self._file.seek(end)

    def _note(self, outcome: RowOutcome, offset: int, about_bytes: int, jpeg_bytes: int) -> None:
        self.outcomes[outcome.key] = outcome
        if outcome.outcome is Outcome.OK:
            self._jpegs[outcome.key] = (offset + _LENGTHS.size + about_bytes, jpeg_bytes)


def journal_file(root: Root, ref: ShardRef) -> Path:
    """Path of a shard's journal: beside its images, or in this user's cache where the root is no local folder."""
    return local_copy(root).local(journal_path(ref.dataset, ref.split, ref.shard))


def journaled_shards(root: Root, dataset: str, split: str) -> list[int]:
    """The shards of a split that have a journal: begun on this machine, and not finished."""
    folder = local_copy(root).local(journal_path(dataset, split, 0)).parent
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdecimal())


def is_locked(root: Root, ref: ShardRef) -> bool:
    """True while a process of this machine works on this shard."""
    try:
        with Lock(journal_file(root, ref), create=False) as lock:
            return lock.is_held()
    except FileNotFoundError:
        return False


def _open_locked(path: Path) -> tuple[IO[bytes], Lock]:
    """Open the file unbuffered and locked, at its beginning."""
    while True:
        lock = Lock(path)
        if not lock.try_hold():
            lock.close()
            raise StageError(f"{path} is locked: another process is downloading this shard; let it end")
        # The process that had the lock may have removed the file just before: then ours is no file of that name.
        if lock.is_on(path):
            return path.open("r+b", buffering=0), lock
        lock.close()


def _read_header(file: IO[bytes]) -> dict[str, object] | None:
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    try:
        header = json.loads(line)
    except ValueError:
        return None
    return header if isinstance(header, dict) and header.get("format") == JOURNAL_FORMAT else None


def _checksum(about: bytes, jpeg: bytes) -> int:
    return zlib.crc32(jpeg, zlib.crc32(about))
