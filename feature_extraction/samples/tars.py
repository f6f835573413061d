"""Tars with one file or two for each key, written plain and read without trust."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

TAR_BLOCK = 512


class ShardError(ValueError):
    """A shard or sample that breaks its format. The message names it and says what to do."""


def write_tar(stream: IO[bytes], members: Iterable[tuple[str, bytes]]) -> None:
    """Write members (name, content) as a plain ustar tar whose bytes depend on nothing else."""
    written = 0
    for name, content in members:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        padding = -len(content) % TAR_BLOCK
        # `TarFile.addfile` would copy the content 16 kB at a time.
        written += stream.write(info.tobuf(tarfile.USTAR_FORMAT)) + stream.write(content) + padding
        stream.write(bytes(padding))
    end = 2 * TAR_BLOCK
    stream.write(bytes(end + -(written + end) % tarfile.RECORDSIZE))


def read_tar(stream: IO[bytes], shard: str) -> Iterator[tuple[str, bytes]]:
    """Read the members (name, content) of a tar, in order.

    Raises:
        ShardError: the tar is cut or damaged, holds something that is not a plain file, or a name twice.
    """
    names: set[str] = set()
    with _open_tar(stream, shard) as tar:
        for info in tar:
            if info.name in names:
                raise ShardError(f"{shard}: member {info.name!r} is there twice; write this shard again")
            names.add(info.name)
            yield info.name, _content(tar, info, shard)
        if stream.seek(0, io.SEEK_END) < tar.offset + TAR_BLOCK:
            raise ShardError(f"{shard}: the tar's end marker is missing; write this shard again")


def find_in_tar(stream: IO[bytes], shard: str, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The wanted members (name, content) that a tar holds.

    What follows the last of them is not looked at.

    Raises:
        ShardError: the tar is damaged up to there, or a wanted member is not a plain file.
    """
    missing = set(wanted)
    with _open_tar(stream, shard) as tar:
        for info in tar:
            if info.name in missing:
                missing.remove(info.name)
                yield info.name, _content(tar, info, shard)
            if not missing:
                return


@contextmanager
def _open_tar(stream: IO[bytes], shard: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Within(stream)), mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"{shard}: not a whole tar ({error}); write this shard again") from error


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, shard: str) -> bytes:
    member = tar.extractfile(info) if info.isreg() else None  # Links lead to other members, or nowhere.
    if member is None:
        raise ShardError(f"{shard}: member {info.name!r} is not a plain file; write this shard again")
    content = member.read()
    if len(content) != info.size:
        raise ShardError(f"{shard}: member {info.name!r} is cut; write this shard again")
    return content


class _Within:
    """A stream for tarfile that refuses to give more bytes than the file has.

    tarfile asks for as many as a header names, so a damaged or hostile header, of 4 EiB say, would be a MemoryError, or
    an OSError of the seek past them.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        here = stream.tell()
        self._end = stream.seek(0, io.SEEK_END)
        stream.seek(here)

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self._end - self._stream.tell()))

    def seek(self, position: int) -> int:
        return self._stream.seek(min(position, self._end))

    def tell(self) -> int:
        return self._stream.tell()


def key_and_extension(name: str, shard: str) -> tuple[str, str]:
    """Split a member's name into key and extension.

    Keys become names of files: none leads out of a folder.
    """
    key, _, extension = name.partition(".")
    if re.fullmatch(r"[\w-]+", key) is None:
        raise ShardError(f"{shard}: member {name!r} has no key of letters, digits, '_' and '-'; write this shard again")
    return key, extension
