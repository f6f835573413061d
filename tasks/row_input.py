"""The bytes and lines of input files: a path or an fsspec URI, packed or not. What cannot be read is a UserError."""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import fsspec

from tasks.errors import UserError

ROW_LIMIT = 1 << 20  # Bytes. What a longer row holds beyond them is not looked at.
_CHUNK = 1 << 20


@contextmanager
def open_input(uri: str, where: str, expected: str = "") -> Iterator[IO[bytes]]:
    """The bytes of an input file, unpacked where its name ends in .gz.

    Args:
        uri: a path or an fsspec URI.
        where: what the file is, for messages: `caption rows of web/train`.
        expected: what it should hold, for the message where there is no such file.

    Raises:
        UserError: it is missing or cannot be opened.
    """
    advice = f"give the path or URI of a file, {expected}" if expected else "give the path or URI of a file"
    try:
        opened = fsspec.open(uri, "rb").open()
    except FileNotFoundError as error:
        raise UserError(f"{where} not found: {uri}; {advice}") from error
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where} cannot be read: {uri} ({error}); give a readable file") from error
    with opened as stream:
        yield cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if _is_packed(uri) else stream


def _is_packed(uri: str) -> bool:
    return plain_name(uri).endswith(".gz")


def plain_name(uri: str) -> str:
    """The end of a path or URI that tells its form, in lower case: what a web server is asked beside it is left out."""
    return (uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri).lower()


def input_chunks(uri: str, where: str) -> Iterator[bytes]:
    """The unpacked bytes of an input file, 1 MiB at a time."""
    with open_input(uri, where) as stream:
        while True:
            with _read_errors(uri, where):  # Only reading: what goes wrong in our caller is not the input's fault.
                chunk = stream.read(_CHUNK)
            if not chunk:
                return
            yield chunk


def input_lines(uri: str, where: str) -> Iterator[bytes]:
    """Lines without their newline, but with a CR before it, and without a byte order mark.

    One that is longer than ROW_LIMIT is cut somewhere beyond it.
    """
    rest = b""
    at_start = True
    for chunk in input_chunks(uri, where):
        *lines, rest = (rest + chunk).split(b"\n")
        if at_start and lines:
            lines[0] = lines[0].removeprefix(BOM_UTF8)
            at_start = False
        yield from lines
        if len(rest) > ROW_LIMIT:
            rest = rest[: ROW_LIMIT + 8]  # It stays too long, whatever follows, without a BOM and a CR too.
    if rest:
        yield rest.removeprefix(BOM_UTF8) if at_start else rest


@contextmanager
def _read_errors(uri: str, where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where} cannot be read to the end: {uri} ({error}); fetch the file again") from error


def input_texts(uri: str, where: str) -> Iterator[tuple[str, bool]]:
    return (decode(line.removesuffix(b"\r")) for line in input_lines(uri, where))


def decode(content: bytes) -> tuple[str, bool]:
    """Bytes as text, and whether that is all of them: they are UTF-8, and not too many."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content[:ROW_LIMIT].decode(errors="replace"), False
    if len(content) > ROW_LIMIT:
        return content[:ROW_LIMIT].decode(errors="ignore"), False
    return text, True
