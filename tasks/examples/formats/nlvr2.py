"""NLVR2's published files: statements as JSON lines, and predictions as its evaluation takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from model.downstream.nlvr2.measures import Statement
from tasks.errors import UserError
from tasks.examples.formats.files import PublishedRow, check_complete, read_json_lines, read_table, unique

_VALUES = {"true": True, "false": False}


class _Statement(PublishedRow):
    identifier: str = Field(pattern=r"^\w+-\d+-\d+-\d+$")
    label: Literal["True", "False"]


def read_statements(uri: str) -> list[Statement]:
    """Read `dev.json` and the like, which hold JSON lines."""
    rows = read_json_lines(uri, "NLVR2 statements", _Statement)
    if not rows:
        raise UserError(f"{uri} holds no NLVR2 statement")
    unique([row.identifier for row in rows], uri, "identifier")
    return [Statement(row.identifier, row.label == "True") for row in rows]


def read_truths(uri: str, statements: Sequence[Statement], annotations: str) -> dict[str, bool]:
    """Read lines `identifier,True`, without a header and in any case, of exactly these statements."""
    truths: dict[str, bool] = {}
    rows = read_table(uri, "NLVR2 predictions")
    for number, row in rows:
        if len(row) != 2 or row[1].strip().lower() not in _VALUES:
            raise UserError(f"{uri}, line {number} is {','.join(row)!r}; expected identifier,True or identifier,False")
        truths[row[0].strip()] = _VALUES[row[1].strip().lower()]
    unique([row[0].strip() for _, row in rows], uri, "identifier")
    check_complete(truths, [one.id for one in statements], (uri, annotations), "identifier")
    return truths
