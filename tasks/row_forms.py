"""The forms in which caption rows are published, each read as one stream of raw rows, in the file's order.

A raw row is `(caption, url, whole)`: the text of its two fields, and whether the row could be parted into them. Where
it could not, the caption is the row's text as far as it can be read and the url is empty: nothing is dropped here.
Rows end at a newline and nowhere else (not at U+2028, a form feed or a lone CR). All forms but the two of JSON are
read in constant memory; COCO's JSON of 150 MB takes about five times its size.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from tasks.config import RowsConfig
from tasks.errors import UserError
from tasks.row_input import ROW_LIMIT, decode, input_chunks, input_lines, input_texts, open_input

RawRow = tuple[str, str, bool]
Parsed = TypeVar("Parsed")

_PARQUET_BATCH = 8192  # rows
_PARQUET_BUFFER = 1 << 20  # bytes
_FILE_COLUMNS = ("file", "file_name", "filename", "image", "url")


def tsv_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """`caption TAB url`, parted at the last tab; or `url TAB caption`, at the first: a URL holds none, a caption may.

    There is no header and no quoting: quotes are ordinary characters.
    """
    for text, readable in input_texts(source.rows, where):
        if source.url_first:
            url, tab, caption = text.partition("\t")
        else:
            caption, tab, url = text.rpartition("\t")
        if tab and readable:
            yield caption, url, True
        else:
            yield text, "", False


def token_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """`name#0 TAB caption`, as Flickr8k and Flickr30K number a picture's captions; the number is left out."""
    for text, readable in input_texts(source.rows, where):
        token, tab, caption = text.partition("\t")
        if not tab or not readable:
            yield text, "", False
            continue
        name, hash_sign, number = token.rpartition("#")
        yield caption, name if hash_sign and number.isdecimal() else token, True


def csv_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Comma-separated values, the first row naming the columns; quoting is csv's own.

    Raises:
        UserError: a column is missing; or a line is longer than ROW_LIMIT, or the quoting of a row breaks off beyond
            its first line, as where a quote is never closed: going on would swallow rows.
    """
    line, readable, ended = "", True, False

    def lines() -> Iterator[str]:
        nonlocal line, readable, ended
        for content in input_lines(source.rows, where):
            if len(content) > ROW_LIMIT:
                number = reader.line_num + 1
                raise UserError(
                    f"{where}: line {number:,} of {source.rows} is longer than {ROW_LIMIT:,} bytes, and its "
                    "quoting cannot be followed; take it out"
                )
            line, line_readable = decode(content)
            readable &= line_readable
            yield line + "\n"
        ended = True

    reader = csv.reader(lines(), strict=True)
    columns: list[str] | None = None
    caption_at = url_at = 0
    while True:
        begin = reader.line_num + 1
        readable = True
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if reader.line_num > begin or ended or columns is None:
                raise UserError(
                    f"{where}: the row that begins in line {begin:,} of {source.rows} has a quote that is not closed, "
                    f"or text behind its closing quote ({error}); double the quotes within quoted fields"
                ) from error
            yield line, "", False  # It ends with its line: its neighbours are safe.
            continue
        if fields is None:
            return
        if columns is None:
            columns = fields
            caption_at, url_at = (columns.index(name) for name in _columns(columns, source, where))
        elif len(fields) != len(columns) or not readable:
            yield ",".join(fields), "", False
        else:
            yield fields[caption_at], fields[url_at], True


def parquet_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """Two text columns of a Parquet file. Null is the empty text.

    Raises:
        UserError: it is no Parquet file, or a column is missing or holds no text.
    """
    with open_input(source.rows, where) as stream:
        with _parquet_errors(source.rows, where):
            file = pq.ParquetFile(stream, buffer_size=_PARQUET_BUFFER)  # Else whole column chunks are read at once.
        schema = file.schema_arrow
        names = _columns(schema.names, source, where)
        for name in names:
            kind = schema.field(name).type
            if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
                raise UserError(f"{where}: column {name!r} of {source.rows} is {kind}, not text; name a text column")
        for batch in _parquet_batches(file, names, source, where):
            captions, urls = (_cells(batch.column(name)) for name in names)
            for caption, url in zip(captions, urls, strict=True):
                caption_text, caption_readable = decode(caption or b"")
                url_text, url_readable = decode(url or b"")
                whole = caption_readable and url_readable
                yield caption_text, url_text if whole else "", whole


def karpathy_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """One row per sentence of the images in the selected splits of a `dataset_*.json` of Karpathy's.

    COCO's file has a folder beside each file name; the name is `val2014/NAME.jpg` then.

    Raises:
        UserError: it is no such file, or has none of the selected splits.
    """
    assert source.select is not None
    images = _parse(_KarpathyFile, source.rows, where, "of Karpathy's form, images with filename, split, sentences")
    found = dict.fromkeys(image.split for image in images.images)
    if not any(split in found for split in source.select):
        raise UserError(
            f"{where}: no image of {source.rows} is of {' or '.join(source.select)}; it has {', '.join(found)}: "
            "name some of them in select"
        )
    for image in images.images:
        if image.split in source.select:
            name = f"{image.filepath}/{image.filename}" if image.filepath else image.filename
            for sentence in image.sentences:
                yield sentence.raw, name, True


def coco_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    """One row per annotation of COCO's own captions file: by the order of the images, then of the annotations.

    An image without annotations gives no row. Annotations whose image is absent come last; they are not whole.

    Raises:
        UserError: it is no such file.
    """
    content = _parse(_CocoFile, source.rows, where, "COCO's captions, images with id and file_name, and annotations")
    captions: dict[int | str, list[str]] = {}
    for annotation in content.annotations:
        captions.setdefault(annotation.image_id, []).append(annotation.caption)
    for image in content.images:
        for caption in captions.pop(image.id, ()):
            yield caption, image.file_name, True
    for orphans in captions.values():
        for caption in orphans:
            yield caption, "", False


# --- columns --------------------------------------------------------------------------------------------------------


def _columns(found: list[str], source: RowsConfig, where: str) -> tuple[str, str]:
    """Names of the caption column and of the URL column, each there once.

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
    """The column that is read where none is named."""
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
    """The bytes of a text column. Parquet files do hold text that is no UTF-8: decoding is ours."""
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


@dataclass(slots=True)
class _Sentence:
    raw: str


@dataclass(slots=True)
class _KarpathyImage:
    filename: str
    split: str
    sentences: list[_Sentence]
    filepath: str = ""


@dataclass(slots=True)
class _KarpathyFile:
    images: list[_KarpathyImage]


@dataclass(slots=True)
class _CocoImage:
    id: int | str
    file_name: str


@dataclass(slots=True)
class _CocoAnnotation:
    image_id: int | str
    caption: str


@dataclass(slots=True)
class _CocoFile:
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]


def _parse(kind: type[Parsed], uri: str, where: str, expected: str) -> Parsed:
    """A JSON file as these records; what they do not name is left out before it takes memory."""
    content = b"".join(input_chunks(uri, where))
    try:
        return TypeAdapter(kind).validate_json(content.removeprefix(BOM_UTF8))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"{where}: {uri} is not {expected} ({at + ': ' if at else ''}{problem['msg']})") from error
