"""Files of a text corpus: which they are, and their passages, one a line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
from pydantic import Field

from tasks.errors import UserError
from tasks.records import Record
from tasks.rows.input import CONVERT, NOT_UTF8, decode, input_lines

_KEEPS_VERSIONS = ("s3", "gs", "gcs", "az", "abfs")
"""Their listings change with a file's content."""
_HAS_QUERIES = ("http", "https")
"""A ? in their addresses begins a query, and nothing lists their files."""
_ANY = "*?["


class TextFile(Record):
    """One input file."""

    uri: str = Field(description="path or fsspec URI")
    digest: str = Field(description="sha256 of its bytes; on an object store, of its facts about this version")


def find_text_files(patterns: Sequence[str], where: str) -> list[str]:
    """Paths and URIs of the files that names and patterns stand for, in order.

    Args:
        patterns: files, or patterns of files, which are sorted by name.
        where: what they are, for messages: `text of wiki/train`.

    Raises:
        UserError: a file is missing or given twice, or a pattern fits none.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        for uri in _files(pattern, where):
            whole = _connect(uri, where)[1]
            if whole in found:
                raise UserError(f"{where}: {uri} is given twice; give each file once")
            found[whole] = uri
    return list(found.values())


def text_file(uri: str, where: str) -> TextFile:
    """A file and its digest.

    Raises:
        UserError: it is missing, cannot be read, or is empty.
    """
    fs, path = _connect(uri, where)
    try:
        is_empty = fs.size(path) == 0
        if _protocol(uri) in _KEEPS_VERSIONS:
            digest = str(fs.ukey(path))
        else:
            with fs.open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UserError(f"{where} not found: {uri}; give the path or URI of a file, one passage a line") from error
    except (OSError, ValueError) as error:  # A web server that cannot serve parts of a file is a ValueError.
        raise UserError(f"{where} cannot be read: {uri} ({error}); give a readable file") from error
    if is_empty:
        raise UserError(f"{where}: {uri} is empty; get it again, or leave it out")
    return TextFile(uri=uri, digest=digest)


@dataclass(frozen=True)
class Place:
    """Where the next line is: the number of its file, and how many lines of that file come before it."""

    file: int = 0
    line: int = 0


class Passages(Iterator[str]):
    """The passages of files from a place on, without the blanks around them.

    Attributes:
        place: where the line after the last passage is.
        blank: blank lines met so far.
    """

    def __init__(self, files: Sequence[str], where: str, place: Place = Place(), blank: int = 0) -> None:
        self.place, self.blank = place, blank
        self._files, self._where = files, where
        self._passages = self._read()

    def __next__(self) -> str:
        """
        Raises:
            UserError: a line is not UTF-8 or too long, or a file has no passage or cannot be read to its end.
        """
        return next(self._passages)

    def _read(self) -> Iterator[str]:
        first, skipped = self.place.file, self.place.line
        for file in range(first, len(self._files)):
            uri = self._files[file]
            done = skipped if file == first else 0  # The last of these lines was a passage.
            has_passage = done > 0
            for line, content in enumerate(input_lines(uri, self._where)):
                if line < done:
                    continue
                text, problem = decode(content)
                if problem:
                    advice = CONVERT if problem == NOT_UTF8 else "break it into shorter lines"
                    raise UserError(f"{self._where}: {uri}, line {line + 1} is {problem}; {advice}")
                text = text.strip()
                if text:
                    has_passage = True
                    self.place = Place(file, line + 1)
                    yield text
                else:
                    self.blank += 1
            if not has_passage:
                raise UserError(f"{self._where}: {uri} has no line with text; get it again, or leave it out")


def _files(pattern: str, where: str) -> list[str]:
    fs, path = _connect(pattern, where)
    try:
        is_name = _protocol(pattern) in _HAS_QUERIES or not any(sign in pattern for sign in _ANY)
        if is_name or fs.exists(path):
            return [pattern]
        paths = sorted(found for found in fs.glob(path) if fs.isfile(found))
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{where} cannot be listed: {pattern} ({error}); name the files") from error
    if not paths:
        raise UserError(f"{where}: no file fits {pattern}; give the paths of files, one passage a line")
    return paths if "://" not in pattern else [fs.unstrip_protocol(found) for found in paths]


def _connect(uri: str, where: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"{where} cannot be read: {uri} ({error}); give a readable file") from error
    return fs, str(path)


def _protocol(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else "file"
