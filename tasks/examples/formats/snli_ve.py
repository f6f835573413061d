"""SNLI-VE's published file `snli_ve_*.jsonl`, and predictions for it by pairID."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import AliasChoices, Field

from model.downstream.snli_ve.measures import LABELS, Hypothesis
from tasks.errors import UserError
from tasks.examples.formats.files import (
    PublishedRow,
    check_complete,
    numbered_lines,
    read_json_lines,
    read_table,
    unique,
)

_NO_LABEL = "-"
_VISUAL_GENOME = "vg_"


class _Hypothesis(PublishedRow):
    image: str = Field(validation_alias=AliasChoices("Flickr30K_ID", "Flickr30kID", "Flikr30kID"))
    id: str = Field(alias="pairID")
    label: str = Field(alias="gold_label")
    hypothesis: str = Field(alias="sentence2")


@dataclass(frozen=True)
class Hypotheses:
    """Those that are measured, and why others are not.

    Attributes:
        dropped: reason -> ids of rows that the authors leave out, too.
    """

    used: list[Hypothesis]
    dropped: dict[str, list[str]]


def read_hypotheses(uri: str) -> Hypotheses:
    """Read `snli_ve_*.jsonl`; pairs without an agreed label, or about pictures of Visual Genome, are dropped."""
    _refuse_e_snli_ve(uri)
    used: list[Hypothesis] = []
    dropped: dict[str, list[str]] = {"no agreed label": [], "no picture of Flickr30K": []}
    rows = read_json_lines(uri, "SNLI-VE pairs", _Hypothesis)
    unique([row.id for row in rows], uri, "pairID")
    for row in rows:
        if row.label == _NO_LABEL:
            dropped["no agreed label"].append(row.id)
        elif row.id.startswith(_VISUAL_GENOME) or row.image.startswith(_VISUAL_GENOME):
            dropped["no picture of Flickr30K"].append(row.id)
        elif row.label not in LABELS:
            raise UserError(f"{uri}, pairID {row.id} has gold_label {row.label!r}; expected {', '.join(LABELS)} or -")
        else:
            used.append(Hypothesis(row.id, row.image.removesuffix(".jpg"), row.label))
    if not used:
        raise UserError(f"{uri} holds no SNLI-VE pair with a label")
    return Hypotheses(used, dropped)


def _refuse_e_snli_ve(uri: str) -> None:
    _, first = next(numbered_lines(uri, "SNLI-VE pairs"), (0, ""))
    try:
        content = json.loads(first)
        names = list(content) if isinstance(content, dict) else []
    except ValueError:
        names = first.split(",")  # It is published as csv.
    if any(name.strip().lower().startswith("explanation") for name in names):
        raise UserError(
            f"{uri} is e-SNLI-VE, another data set: it has explanations, and other labels for the same pairs; give "
            "snli_ve_dev.jsonl or snli_ve_test.jsonl of SNLI-VE"
        )


def read_labels(
    uri: str, hypotheses: Hypotheses, annotations: str, fields: tuple[str, str] = ("pairID", "label")
) -> dict[str, str]:
    """Read predicted labels, as JSON lines or as a table with a header, of exactly these hypotheses.

    Those for pairs that were dropped may be there, too, and do not count.

    Args:
        fields: names of the pair's id and of its label.
    """
    found = _read_fields(uri, fields)
    for _, label in found:
        if label not in LABELS:
            numbers = "; programs number labels differently, so give names" if label.isdecimal() else ""
            raise UserError(f"{uri} has {fields[1]} {label!r}; expected one of {', '.join(LABELS)}{numbers}")
    unique([one for one, _ in found], uri, fields[0])
    dropped = {one for ids in hypotheses.dropped.values() for one in ids}
    labels = {one: label for one, label in found if one not in dropped}
    check_complete(labels, [one.id for one in hypotheses.used], (uri, annotations), fields[0])
    return labels


def _read_fields(uri: str, fields: Sequence[str]) -> list[tuple[str, str]]:
    what = "SNLI-VE predictions"
    _, first = next(numbered_lines(uri, what), (0, ""))
    if first.lstrip().startswith("{"):
        rows = read_json_lines(uri, what, dict[str, object])
        for row in rows:
            for name in fields:
                if name not in row:
                    raise UserError(f"{uri} has rows without {name}, such as {row}; name its fields")
        return [(str(row[fields[0]]), str(row[fields[1]])) for row in rows]
    table = read_table(uri, what)
    header = table[0][1] if table else []
    for name in fields:
        if name not in header:
            raise UserError(f"{uri} has no column {name}; its first line is {','.join(header)!r}; name its columns")
    places = [header.index(name) for name in fields]
    for number, cells in table[1:]:
        if len(cells) != len(header):
            raise UserError(f"{uri}, line {number} has {len(cells)} cells; its first line has {len(header)}")
    return [(cells[places[0]], cells[places[1]]) for _, cells in table[1:]]
