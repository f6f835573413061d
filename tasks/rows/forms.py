"""The published forms of caption rows, each read as a stream in the file's order.

A raw row is `(caption, url, problem)`: the text of its two fields, and why the row could not be parted into them, ""
where it could. Where it could not, the caption is the row's text as far as it can be read and the url is empty, or what
is known of it: nothing is dropped here.
Rows end at a newline and nowhere else (not at U+2028, a form feed or a lone CR). All forms but the two of JSON are
read in constant memory; COCO's JSON of 150 MB takes about five times its size.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from tasks.config import RowsConfig
from tasks.errors import UserError
from tasks.rows.input import CONVERT, NOT_UTF8, ROW_LIMIT, decode, input_lines, input_texts, open_input, text_chunks

RawRow = tuple[str, str, str]
Parsed = TypeVar("Parsed")

_PARQUET_BATCH = 8192  # rows
_PARQUET_BUFFER = 1 << 20  # bytes
_DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR = re.compile(r'"?sep=.?"?\r?\n')
_NO_TAB = "no tab between caption and URL"
_FILE_COLUMNS = ("file", "file_name", "filename", "image", "url")


def tsv_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Read `caption TAB url`, or `url TAB caption`.

    A URL holds no tab, a caption may: the last tab splits the former, the first the latter.

    There is no header and no quoting: quotes are ordinary characters.
    """
    for text, problem in input_texts(source.rows, where):
        if source.url_first:
            url, tab, caption = text.partition("\t")
        else:
            caption, tab, url = text.rpartition("\t")
        if tab and not problem:
            yield caption, url, ""
        else:
            yield text, "", problem or _NO_TAB


def token_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Read `name#0 TAB caption`, as Flickr8k and Flickr30K number a picture's captions; the number is left out."""
    for text, problem in input_texts(source.rows, where):
        token, tab, caption = text.partition("\t")
        if not tab or problem:
            yield text, "", problem or "no tab between file name and caption"
            continue
        name, hash_sign, number = token.rpartition("#")
        yield caption, name if hash_sign and number.isdecimal() else token, ""


def csv_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Read comma-separated values; the first row names the columns, quoting is csv's own.

    Where the columns are found by parting the first row at semicolons, tabs or bars, so are the others; or a line
    `sep=;` before it says what parts them, as Excel has it.

    Raises:
        UserError: a column is missing; or a line is longer than ROW_LIMIT, or the quoting of a row breaks off beyond
            its first line, as where a quote is never closed: going on would swallow rows.
    """
    line, problem, ended = "", "", False

    def lines() -> Iterator[str]:
        nonlocal line, problem, ended
        for number, content in enumerate(input_lines(source.rows, where), start=1):
            if len(content) > ROW_LIMIT:
                raise UserError(
                    f"{where}: line {number:,} of {source.rows} is longer than {ROW_LIMIT:,} bytes, and its "
                    "quoting cannot be followed; take it out"
                )
            line, line_problem = decode(content)
            problem = problem or line_problem
            yield line + "\n"
        ended = True

    csv.field_size_limit(max(ROW_LIMIT, csv.field_size_limit()))  # The limit is one for the whole process.
    texts = lines()
    first = next(texts, "")
    if _SEPARATOR.fullmatch(first):
        first = next(texts, "")  # It tells nothing beyond the first row.
    reader = csv.reader(chain([first] if first else [], texts), strict=True, delimiter=_delimiter(first, source, where))
    columns: list[str] | None = None
    caption_at = url_at = 0
    while True:
        begin = reader.line_num + 1
        problem = ""
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if reader.line_num > begin or ended or columns is None:
                raise UserError(
                    f"{where}: the row that begins in line {begin:,} of {source.rows} has a quote that is not closed, "
                    f"or text behind its closing quote ({error}); double the quotes within quoted fields"
                ) from error
            yield line, "", problem or str(error)  # The row ends with its line, so its neighbours are safe.
            continue
        if fields is None:
            return
        if columns is None:
            columns = fields
            caption_at, url_at = (columns.index(name) for name in _columns(columns, source, where))
        elif len(fields) != len(columns) or problem:
            yield ",".join(fields), "", problem or f"{len(fields)} fields, and the first row names {len(columns)}"
        else:
            yield fields[caption_at], fields[url_at], ""


def _delimiter(first: str, source: RowsConfig, where: str) -> str:
    """The delimiter that splits the first row into columns of the wanted names; the comma where none does."""
    for delimiter in _DELIMITERS:
        try:
            columns = next(csv.reader([first], strict=True, delimiter=delimiter), [])
            _columns(columns, source, where)
        except (csv.Error, UserError):
            continue
        return delimiter
    return _DELIMITERS[0]


def parquet_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Read two text columns of a Parquet file.

    Raises:
        UserError: it is no Parquet file, or a column is missing or holds no text.
    """
    with open_input(source.rows, where) as stream:
        with _parquet_errors(source.rows, where):
            file = pq.ParquetFile(
                stream, buffer_size=_PARQUET_BUFFER
            )  # Without this, whole column chunks are read at once.
        schema = file.schema_arrow
        names = _columns(schema.names, source, where)
        for name in names:
            kind = schema.field(name).type
            if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
                raise UserError(f"{where}: column {name!r} of {source.rows} is {kind}, not text; name a text column")
        for batch in _parquet_batches(file, names, source, where):
            captions, urls = (_cells(batch.column(name)) for name in names)
            for caption, url in zip(captions, urls, strict=True):
                caption_text, caption_problem = decode(caption or b"")
                url_text, url_problem = decode(url or b"")
                problem = caption_problem or url_problem
                yield (
                    caption_text,
                    "" if problem else url_text,
                    problem or ("its caption is null" if caption is None else ""),
                )


def karpathy_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Read one row per sentence of the images in the selected splits of Karpathy's `dataset_*.json`.

    COCO's file has a folder beside each file name; the name is `val2014/NAME.jpg` then.

    Raises:
        UserError: it is no such file, or has none of the selected splits.
    """
    assert source.select is not None
    images = parse_json(_KarpathyFile, source.rows, where, "of Karpathy's form, images with filename, split, sentences")
    found = dict.fromkeys(image.split for image in images.images if image.split is not None)
    if not any(split in found for split in source.select):
        raise UserError(
            f"{where}: no image of {source.rows} is of {' or '.join(source.select)}; it has {', '.join(found)}: "
            "name some of them in select"
        )
    for image in images.images:
        if image.split is not None and image.split not in source.select:
            continue
        name, problem = _text(image.filename, "file name")
        folder, folder_problem = _text(image.filepath, "folder")
        problem = problem or folder_problem or ("" if image.split else "its image is of no split")
        if image.sentences is None:
            yield "", name, problem or "its sentences are null"
        for sentence in image.sentences or ():
            caption, caption_problem = _text(None if sentence is None else sentence.raw, "caption")
            yield caption, "" if problem else f"{folder}/{name}" if folder else name, problem or caption_problem


def coco_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Read one row per annotation of COCO's captions file, by image, then annotation.

    An image without annotations gives no row. Annotations whose image is absent come last; they are not whole.

    Raises:
        UserError: it is no such file.
    """
    content = parse_json(
        _CocoFile, source.rows, where, "COCO's captions, images with id and file_name, and annotations"
    )
    captions: dict[int | str | None, list[tuple[str, str]]] = {}
    for annotation in content.annotations:
        captions.setdefault(annotation.image_id, []).append(_text(annotation.caption, "caption"))
    for image in content.images:
        if image.id is None:
            continue  # No annotation belongs to it.
        name, name_problem = _text(image.file_name, "file name")
        for caption, problem in captions.pop(image.id, ()):
            yield caption, name, name_problem or problem
    for without_image in captions.values():
        for caption, problem in without_image:
            yield caption, "", problem or "its image is not in the file"


# --- columns --------------------------------------------------------------------------------------------------------


def _columns(found: list[str], source: RowsConfig, where: str) -> tuple[str, str]:
    """Names of the caption column and of the URL column, each of which occurs once.

    Raises:
        UserError: one is not there, or more than once.
    """
    url_column = source.url_column or _url_column(found, source, where)
    for name in (source.caption_column, url_column):
        if name not in found:
            raise _no_column(name, found, source, where)
        if found.count(name) > 1:
            raise UserError(
                f"{where}: {source.rows} has {found.count(name)} columns named {name!r}; rename all but one"
            )
    return source.caption_column, url_column


def _url_column(found: list[str], source: RowsConfig, where: str) -> str:
    """The URL column's name where none is given."""
    if source.images is None:
        return "url"
    known = [name for name in _FILE_COLUMNS if name in found]
    if len(known) > 1:
        raise UserError(
            f"{where}: {source.rows} has the columns {' and '.join(known)}; set url_column to the one of file names"
        )
    return known[0] if known else _FILE_COLUMNS[0]


def _no_column(name: str, found: list[str], source: RowsConfig, where: str) -> UserError:
    shown = ", ".join(repr(column[:80]) for column in found[:20])
    return UserError(
        f"{where}: {source.rows} has no row that names a column {name!r}, its columns are {shown}; set caption_column "
        "and url_column, or form tsv for rows without names whose caption and URL are parted by a tab"
    )


def _is_text(kind: Any) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _cells(column: Any) -> list[bytes | None]:
    """The bytes of a text column.

    Parquet files do hold text that is no UTF-8, so we decode it.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary()).to_pylist()


def _parquet_batches(file: Any, names: tuple[str, str], source: RowsConfig, where: str) -> Iterator[Any]:
    columns = list(dict.fromkeys(names))
    for group in range(file.num_row_groups):  # One iterator over all of them would keep what it has read of each.
        batches = file.iter_batches(_PARQUET_BATCH, row_groups=[group], columns=columns, use_threads=False)
        while True:
            with _parquet_errors(source.rows, where):
                batch = next(batches, None)
            if batch is None:
                break
            yield batch


@contextmanager
def _parquet_errors(uri: str, where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{where} cannot be read: {uri} ({problem}); give a whole Parquet file") from error


# --- JSON -----------------------------------------------------------------------------------------------------------


# A missing or mistyped value is one bad row, not the end of the file.


@dataclass(slots=True)
class _Sentence:
    raw: Any = None


@dataclass(slots=True)
class _KarpathyImage:
    sentences: list[_Sentence | None] | None
    filename: Any = None
    split: str | None = None
    filepath: Any = ""


@dataclass(slots=True)
class _KarpathyFile:
    images: list[_KarpathyImage]


@dataclass(slots=True)
class _CocoImage:
    id: int | str | None = None
    file_name: Any = None


@dataclass(slots=True)
class _CocoAnnotation:
    image_id: int | str | None = None
    caption: Any = None


@dataclass(slots=True)
class _CocoFile:
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]


def _text(value: object, what: str) -> tuple[str, str]:
    """A value as text, and why it is none."""
    if isinstance(value, str):
        return value, ""
    if value is None:
        return "", f"its {what} is null"
    return "", f"its {what} is no text"


def parse_json(kind: type[Parsed], uri: str, where: str, expected: str) -> Parsed:
    """Parse a JSON file as these records, without memory for fields they do not name."""
    content = b"".join(text_chunks(uri, where))
    try:
        return TypeAdapter(kind).validate_json(content.removeprefix(BOM_UTF8))
    except ValidationError as error:
        if decode(content)[1] == NOT_UTF8:
            raise UserError(f"{where}: {uri} is no UTF-8 text; {CONVERT}") from error
        problem = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{where}: {uri} is not {expected} ({at + ': ' if at else ''}{problem['msg']})") from error
