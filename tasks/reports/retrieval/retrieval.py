"""The recall tables of a report, one for each protocol, beside published results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from tasks.evaluation.retrieval.published import PublishedRow, published_rows
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.pages.page import render
from tasks.reports.measure_table import published_html, table_html
from tasks.reports.retrieval.tables import protocol_of, retrieval_table

_OTHER_DATA = (
    "For orientation only, and not to be compared with the tables above: these are the 1,000 test images of Flickr30K, "
    "by other models, on features of another detector, after pretraining on millions of pictures."
)
_OTHER_PROTOCOL = (
    "For orientation only: these are Flickr30K’s 1,000 test images. What was measured above are other images, or "
    "another number of them."
)


def retrieval_section(tables: Sequence[Sequence[SettingRow]], dataset: str, split: str) -> Markup:
    """A table for each protocol, with the published rows of the same test set and size.

    Where there are none, Flickr30K's come apart, under a note that they are of other data.

    Args:
        tables: rows of one protocol each, the main protocol's first.
        dataset: that was scored.
        split: that was scored.
    """
    blocks = []
    compared = False
    for rows in tables:
        published = published_beside(rows[-1], dataset, split) if rows else []
        compared = compared or bool(published)
        heading = _capital(protocol_of(rows[-1])) if len(tables) > 1 and rows else ""
        blocks.append((heading, table_html(retrieval_table(rows, published))))
    flickr = None if compared or not any(tables) else retrieval_table((), published_rows("flickr30k", "1K"))
    return render(
        "reports/retrieval/retrieval.html",
        tables=blocks,
        elsewhere=None if flickr is None else published_html(flickr),
        note=_OTHER_PROTOCOL if _published_name(dataset) else _OTHER_DATA,
    )


def published_beside(row: SettingRow, dataset: str, split: str) -> list[PublishedRow]:
    """Published rows that may be compared with a row of ours: of the same test set and number of ranked images."""
    name = _published_name(dataset)
    if name is None or split != "test" or row.positives is not None:
        return []
    ranked, left = divmod(row.images, row.folds)
    protocol = {1000: "1K", 5000: "5K"}.get(ranked)
    return [] if left or protocol is None else published_rows(name, protocol)


def _published_name(dataset: str) -> str | None:
    """flickr30k or coco, by a dataset's name: `Flickr30K`, `coco-karpathy`, `mscoco`."""
    plain = re.sub(r"[^a-z0-9]", "", dataset.lower())
    return next((name for name in ("flickr30k", "coco") if plain.removeprefix("ms").startswith(name)), None)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
