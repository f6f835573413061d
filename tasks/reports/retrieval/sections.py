"""Retrieval's sections of a report: its tables, and pictures with the captions they find and that find them."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tasks.evaluation.evaluate import PositivesTable, ProtocolTable
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.report import Scored, Section
from tasks.reports.retrieval.gallery import GALLERY_RULE, make_gallery
from tasks.reports.retrieval.gallery_page import image_queries, text_queries
from tasks.reports.retrieval.retrieval import retrieval_section
from tasks.storage.root import Root


def experiment_sections(root: Root, tables: Sequence[Sequence[SettingRow]], shown: Scored) -> list[Section]:
    """Of a whole experiment: tables of all its settings, pictures of one.

    Args:
        tables: rows for each protocol, the main one first.
        shown: the evaluation that pictures are shown of.
    """
    row = shown.row
    return [
        ("Retrieval", retrieval_section(tables, row.dataset, row.split)),
        *_galleries(root, shown, f"Setting {row.setting}. "),
    ]


def evaluation_sections(
    root: Root, scored: Scored, tables: Sequence[ProtocolTable], positives: Sequence[PositivesTable] = ()
) -> list[Section]:
    """Of one evaluation.

    Args:
        tables: what each protocol measured, the main one first.
        positives: what other ground truths measured.
    """
    row = scored.row
    shown = [(table.chance, table.row) for table in tables] + [(table.row,) for table in positives]
    return [
        ("Retrieval", retrieval_section(shown, row.dataset, row.split) + _unscored(positives)),
        *_galleries(root, scored, ""),
    ]


def _galleries(root: Root, scored: Scored, about: str) -> list[tuple[str, Markup]]:
    """A section for each direction; the first one has the rule."""
    gallery = make_gallery(root, scored.name, scored.row.dataset, scored.row.split, scored.extractor)
    rule = Markup('<p class="note">{}</p>').format(about + GALLERY_RULE)
    return [
        ("Captions and the images they find", rule + text_queries(gallery.texts)),
        ("Images and the captions they find", image_queries(gallery.images)),
    ]


def _unscored(positives: Sequence[PositivesTable]) -> Markup:
    note = Markup('<p class="note">{}</p>')
    return Markup().join(note.format(table.unscored) for table in positives if table.unscored)
