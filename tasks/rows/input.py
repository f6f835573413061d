"""Bytes and lines of input files: a path or an fsspec URI, packed or not. Unreadable input is a UserError.

What a file is packed with, and whether its text is UTF-16, its first bytes tell, whatever its name ends in. Text comes
out as UTF-8. Encodings of one byte, such as Latin-1, cannot be told from one another: their rows cannot be read.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import fsspec

from tasks.errors import UserError

ROW_LIMIT = 1 << 20  # Bytes. What a longer row holds beyond them is not looked at.
TOO_LONG = f"longer than {ROW_LIMIT:,} bytes"
NOT_UTF8 = "not UTF-8 text"
CONVERT = "if it is of Latin-1 or the like, convert it: iconv -f WINDOWS-1252 -t UTF-8"
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_CHUNK = 1 << 20
_HEAD = 4096  # Bytes that tell what a file is.
_GZIP = b"\x1f\x8b\x08"
_NO_TEXT = {
    b"PK\x03\x04": "a zip archive; unpack it, and give the file that comes out",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it, and give the file that comes out",
    b"Rar!": "a rar archive; unpack it, and give the file that comes out",
    b"PAR1": "a Parquet file; set form to parquet, or have its name end in .parquet",
    b"SQLite format 3\0": "an SQLite database; export its rows",
    b"%PDF-": "a PDF document; give the rows themselves",
}
_WEB_PAGE = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_WIDE_ENCODINGS = (
    ("utf-32-le", codecs.BOM_UTF32_LE),  # It begins as UTF-16's does.
    ("utf-32-be", codecs.BOM_UTF32_BE),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
)
_LITTLE, _MUCH = 0.02, 0.25  # Share of ASCII characters: file names, URLs, tabs, line ends.


@contextmanager
def open_input(uri: str, where: str, expected: str = "") -> Iterator[IO[bytes]]:
    """Open an input file, unpacking gzip, bzip2, xz or zstd.

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
        with _read_errors(uri, where):
            head = b""
            while len(head) < _HEAD and (chunk := stream.read(_HEAD - len(head))):
                head += chunk
            whole = _from_the_start(stream, head)
        yield _unpacked(whole, head, plain_name(uri).endswith(".gz"))


def _from_the_start(stream: Any, head: bytes) -> IO[bytes]:
    """The stream as it was before its head was read."""
    try:
        stream.seek(0)
    except (OSError, ValueError):  # A web server that cannot serve parts of a file.
        return cast(IO[bytes], io.BufferedReader(_Rejoined(head, stream)))
    return cast(IO[bytes], stream)


class _Rejoined(io.RawIOBase):
    """Some bytes followed by the stream that they were read from."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(content) :]
        buffer[: len(content)] = content
        return len(content)


def _unpacked(stream: IO[bytes], head: bytes, is_named_gzip: bool) -> IO[bytes]:
    # Browsers and proxies unpack what they fetch, and leave the name: what is text is not packed.
    if head.startswith(_GZIP) or (is_named_gzip and not _is_text(head)):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if re.match(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", head):
        return cast(IO[bytes], bz2.BZ2File(stream))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast(IO[bytes], lzma.LZMAFile(stream))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd"))
    return stream


def _is_text(head: bytes) -> bool:
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return _wide_encoding(head) is not None


def plain_name(uri: str) -> str:
    """The lower-case end of a path or URI, which tells its form; a URI's query is left out."""
    return (uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri).lower()


def input_chunks(uri: str, where: str) -> Iterator[bytes]:
    """Read the unpacked bytes of an input file, 1 MiB at a time."""
    with open_input(uri, where) as stream:
        while True:
            with _read_errors(uri, where):  # Guard only the reading: errors in our caller are not the input's fault.
                chunk = stream.read(_CHUNK)
            if not chunk:
                return
            yield chunk


def text_chunks(uri: str, where: str) -> Iterator[bytes]:
    """Read an input file as UTF-8 text, about 1 MiB at a time; other bytes are handed on as they are.

    Raises:
        UserError: it is an archive, a web page or another file that holds no rows of text.
    """
    chunks = input_chunks(uri, where)
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    kind = next((kind for magic, kind in _NO_TEXT.items() if head.startswith(magic)), None)
    if kind is None and _WEB_PAGE.match(head):
        kind = "a web page; give the address of the file itself, or fetch it with the login that the page asks for"
    if kind is not None:
        raise UserError(f"{where} cannot be read: {uri} is {kind}")
    encoding = _wide_encoding(head[: _HEAD // 4 * 4])
    if encoding is None:
        if head:
            yield head
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    yield decoder.decode(head).encode("utf-8", "surrogatepass")  # Half of a pair makes its row unreadable, no other.
    for chunk in chunks:
        yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        yield b"\xff"  # The last row ends within a character.


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 by a byte order mark or many ASCII characters; else None."""
    for encoding, mark in _WIDE_ENCODINGS:
        text = head.decode(encoding, "replace")
        ascii_characters = sum("\0" < character < "\x80" for character in text)
        is_marked = head.startswith(mark)
        if (is_marked or "\0" not in text) and ascii_characters > (_LITTLE if is_marked else _MUCH) * len(text):
            return encoding
    return None


def input_lines(uri: str, where: str) -> Iterator[bytes]:
    """Read lines without newline and byte order mark, but with a CR before the newline.

    One that is longer than ROW_LIMIT is cut somewhere beyond it.
    """
    rest = b""
    at_start = True
    for chunk in text_chunks(uri, where):
        *lines, rest = (rest + chunk).split(b"\n")
        if at_start and lines:
            lines[0] = lines[0].removeprefix(BOM_UTF8)
            at_start = False
        yield from lines
        if len(rest) > ROW_LIMIT:
            rest = rest[: ROW_LIMIT + 8]  # It is too long whatever follows, also without a BOM and a CR.
    if rest:
        yield rest.removeprefix(BOM_UTF8) if at_start else rest


@contextmanager
def _read_errors(uri: str, where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{where} cannot be read to the end: {uri} ({error}); fetch the file again") from error


def input_texts(uri: str, where: str) -> Iterator[tuple[str, str]]:
    """Read lines as text, each with the reason if it cannot be read; see `decode`."""
    return (decode(line.removesuffix(b"\r")) for line in input_lines(uri, where))


def decode(content: bytes) -> tuple[str, str]:
    """Decode as much as is UTF-8, and say why not all: bytes of another encoding, or too many; else ""."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content[:ROW_LIMIT].decode(errors="replace"), NOT_UTF8
    if len(content) > ROW_LIMIT:
        return content[:ROW_LIMIT].decode(errors="ignore"), TOO_LONG
    return text, ""
