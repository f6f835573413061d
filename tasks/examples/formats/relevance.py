"""Tables of advertisements, such as CommercialAds' TSV without a header, and of scores for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from model.downstream.relevance.measures import Advertisement
from tasks.errors import UserError
from tasks.examples.formats.files import check_complete, read_table, unique

_LABELS = {"0": False, "1": True}


@dataclass(frozen=True)
class AdvertisementColumns:
    """Which columns of the annotations are read, by number from 0 or by name: with a name the first line is a header.

    Attributes:
        id: those that name a pair together; None: pairs are told by their row, so both files have them in one order.
        image: of the picture's name.
        label: 1 where relevant, else 0.
    """

    id: tuple[str, ...] | None = ("0", "1")
    image: str = "0"
    label: str = "8"


@dataclass(frozen=True)
class ScoreColumns:
    """Which columns of the predictions are read, as in `AdvertisementColumns`."""

    id: tuple[str, ...] | None = ("0", "1")
    score: str = "2"


def read_advertisements(uri: str, columns: AdvertisementColumns) -> list[Advertisement]:
    """Read pairs with their labels."""
    ids = columns.id or ()
    rows = _read_columns(uri, "pairs of query and advertisement", (*ids, columns.image, columns.label))
    found = []
    for place, (number, cells) in enumerate(rows):
        *parts, image, label = cells
        if label not in _LABELS:
            raise UserError(
                f"{uri}, line {number} has label {label!r} in column {columns.label}; expected 1 where relevant, else 0"
            )
        found.append(Advertisement(_id(parts, place), image, _LABELS[label]))
    if not found:
        raise UserError(f"{uri} holds no pair of query and advertisement")
    unique([one.id for one in found], uri, "pair")
    return found


def read_scores(
    uri: str, advertisements: Sequence[Advertisement], annotations: str, columns: ScoreColumns
) -> dict[str, float]:
    """Read the scores of exactly these pairs; higher means more relevant."""
    rows = _read_columns(uri, "scores", (*(columns.id or ()), columns.score))
    scores, ids = {}, []
    for place, (number, cells) in enumerate(rows):
        *parts, text = cells
        ids.append(_id(parts, place))
        scores[ids[-1]] = _score(text, uri, number)
    if columns.id is None and len(rows) != len(advertisements):
        raise UserError(
            f"{uri} has {len(rows):,} rows and {annotations} {len(advertisements):,}; by rows, there has to be a score "
            "for each pair"
        )
    unique(ids, uri, "pair")
    check_complete(ids, [one.id for one in advertisements], (uri, annotations), "pair")
    return scores


def _id(parts: Sequence[str], place: int) -> str:
    return " ".join(parts) if parts else str(place)


def _score(text: str, uri: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{uri}, line {line} has {text!r} for a score; expected a finite number")
    return value


def _read_columns(uri: str, what: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Line numbers and the cells of some columns."""
    table = read_table(uri, what)
    header: list[str] = []
    if not all(name.isdecimal() for name in columns):
        header, table = table[0][1] if table else [], table[1:]
    for name in columns:
        if not name.isdecimal() and name not in header:
            raise UserError(f"{uri} has no column {name!r}; its first line is {', '.join(header)!r}")
    places = [int(name) if name.isdecimal() else header.index(name) for name in columns]
    for number, cells in table:
        if len(cells) <= max(places):
            raise UserError(
                f"{uri}, line {number} of {what} has {len(cells)} cells, so no column {max(places)}, counted from 0"
            )
    return [(number, [cells[place].strip() for place in places]) for number, cells in table]
