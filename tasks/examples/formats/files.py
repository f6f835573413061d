"""Read annotations and predictions: JSON, JSON lines and tables, whole or not at all. Wrong ones are a UserError."""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tasks.errors import UserError
from tasks.rows.input import CONVERT, NOT_UTF8, input_texts, text_chunks

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


class PublishedRow(BaseModel):
    """The fields of a published row that are read; it may have others. Texts are no numbers, and numbers no texts."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


def read_json(uri: str, what: str, form: TypeAdapter[T]) -> T:
    """Read a JSON file of a given form.

    Args:
        what: the file is, for messages: VQA annotations.
    """
    try:
        return form.validate_json(_content(uri, what))
    except ValidationError as error:
        raise UserError(f"{uri} holds no {what}: {trouble_text(error)}") from error


def _content(uri: str, what: str) -> bytes:
    return b"".join(text_chunks(uri, what)).removeprefix(BOM_UTF8)


def read_json_lines(uri: str, what: str, row: type[T]) -> list[T]:
    """Read a file with one JSON object a line; empty lines do not count."""
    form = TypeAdapter(row)
    rows = []
    for number, line in numbered_lines(uri, what):
        try:
            rows.append(form.validate_json(line))
        except ValidationError as error:
            raise UserError(f"{uri}, line {number} is none of {what}: {trouble_text(error)}") from error
    return rows


def numbered_lines(uri: str, what: str) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers, from 1."""
    for number, (line, trouble) in enumerate(input_texts(uri, what), 1):
        if trouble:
            raise UserError(f"{uri}, line {number} of {what} cannot be read: {trouble}")
        if line.strip():
            yield number, line


def read_table(uri: str, what: str) -> list[tuple[int, list[str]]]:
    """Rows of a table with their line numbers: tabs where its first line has one, else commas and quotes."""
    try:
        text = _content(uri, what).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} holds no {what}: it is {NOT_UTF8}; {CONVERT}") from error
    return list(_table_rows(uri, what, text))


def _table_rows(uri: str, what: str, text: str) -> Iterator[tuple[int, list[str]]]:
    if "\t" in text.partition("\n")[0]:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, line.removesuffix("\r").split("\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{uri}, line {reader.line_num} of {what} cannot be read: {error}") from error


def trouble_text(error: ValidationError) -> str:
    """The first thing that is wrong, where it is, and what is there."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"its JSON breaks off or is none ({first['ctx']['error']})"
    place = ".".join(str(part) for part in first["loc"])
    seen = "" if first["type"] == "missing" else f" (it is {_shown(first['input'])})"
    return f"{place or 'its whole'}: {first['msg']}{seen}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unique(ids: Sequence[Key], uri: str, name: str) -> None:
    """Refuse a file that has an id twice.

    Args:
        name: of an id, for messages: question_id.
    """
    seen: set[Key] = set()
    for one in ids:
        if one in seen:
            raise UserError(f"{uri} has {name} {one} twice; each may be there once")
        seen.add(one)


def check_complete(found: Collection[Key], wanted: Collection[Key], uris: tuple[str, str], name: str) -> None:
    """Refuse predictions that are not for exactly the annotated examples.

    Args:
        uris: of the predictions and of the annotations.
        name: of an id, for messages: question_id.
    """
    predictions, annotations = uris
    found_set, wanted_set = set(found), set(wanted)
    lacking = [one for one in wanted if one not in found_set]
    if lacking:
        raise UserError(
            f"{predictions} lacks {len(lacking):,} of the {len(wanted_set):,} that {annotations} annotates, such as "
            f"{name} {lacking[0]}; predict them all, a part cannot be measured"
        )
    others = [one for one in found if one not in wanted_set]
    if others:
        raise UserError(
            f"{predictions} has {len(others):,} that {annotations} does not annotate, such as {name} {others[0]}; take "
            "the annotations of the same split"
        )
