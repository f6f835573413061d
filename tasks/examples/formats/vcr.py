"""VCR's published files: items as JSON lines, and the 21 columns of probabilities that its leaderboard takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from model.downstream.bootstrap import Values
from model.downstream.vcr.measures import CHOICES, Item
from tasks.errors import UserError
from tasks.examples.formats.files import PublishedRow, check_complete, read_json_lines, read_table, unique

COLUMNS = (
    "annot_id",
    *(f"answer_{answer}" for answer in range(CHOICES)),
    *(f"rationale_conditioned_on_a{answer}_{choice}" for answer in range(CHOICES) for choice in range(CHOICES)),
)
"""In the order in which the leaderboard names them; a file may have them in another one."""


class _Item(PublishedRow):
    annot_id: str
    img_fn: str
    answer_label: int | None = Field(default=None, ge=0, lt=CHOICES)
    rationale_label: int | None = Field(default=None, ge=0, lt=CHOICES)


def read_items(uri: str) -> list[Item]:
    """Read `val.jsonl`; the test split has no labels, so only its leaderboard can measure it."""
    items = []
    for row in read_json_lines(uri, "VCR items", _Item):
        if row.answer_label is None or row.rationale_label is None:
            raise UserError(
                f"{uri}, annot_id {row.annot_id} has no labels, as in the test split, which only the leaderboard can "
                "measure; give val.jsonl"
            )
        items.append(Item(row.annot_id, row.img_fn, row.answer_label, row.rationale_label))
    if not items:
        raise UserError(f"{uri} holds no VCR item")
    unique([one.id for one in items], uri, "annot_id")
    return items


def read_probabilities(uri: str, items: Sequence[Item], annotations: str) -> tuple[Values, Values]:
    """Read the probabilities of exactly these items, in their order.

    Returns:
        Of answers (items, 4), and of rationales given each answer (items, 4, 4).
    """
    table = read_table(uri, "VCR predictions")
    header = table[0][1] if table else []
    if sorted(header) != sorted(COLUMNS):
        lacking = [name for name in COLUMNS if name not in header]
        trouble = f"lacks {lacking[0]}" if lacking else "has a column too many"
        raise UserError(
            f"{uri} {trouble}; its first line names {len(header)} columns, expected {len(COLUMNS)}: annot_id, answer_0 "
            "to answer_3, rationale_conditioned_on_a0_0 to rationale_conditioned_on_a3_3"
        )
    places = [header.index(name) for name in COLUMNS]
    found: dict[str, list[float]] = {}
    ids = []
    for number, cells in table[1:]:
        if len(cells) != len(COLUMNS):
            raise UserError(f"{uri}, line {number} has {len(cells)} cells, expected {len(COLUMNS)}")
        ids.append(cells[places[0]])
        found[ids[-1]] = [_probability(cells[place], uri, number) for place in places[1:]]
    unique(ids, uri, "annot_id")
    check_complete(ids, [one.id for one in items], (uri, annotations), "annot_id")
    values = np.array([found[one.id] for one in items])
    return values[:, :CHOICES], values[:, CHOICES:].reshape(-1, CHOICES, CHOICES)


def _probability(text: str, uri: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise UserError(f"{uri}, line {line} has {text!r} for a probability; expected a number from 0 to 1")
    return value
