"""Measure predictions in their published files against annotations in theirs: no model, no pictures, no root."""

from __future__ import annotations

from pydantic import Field

from model.downstream.figures import TaskFigures
from model.downstream.nlvr2.measures import nlvr2_figures
from model.downstream.refcoco.boxes import IouRule, Widths
from model.downstream.refcoco.measures import refcoco_figures
from model.downstream.relevance.measures import relevance_figures
from model.downstream.snli_ve.measures import snli_ve_figures
from model.downstream.vcr.measures import vcr_figures
from model.downstream.vqa.measures import vqa_figures
from tasks.errors import UserError
from tasks.examples.formats.nlvr2 import read_statements, read_truths
from tasks.examples.formats.refcoco import BoxForm, read_boxes, read_expressions
from tasks.examples.formats.relevance import AdvertisementColumns, ScoreColumns, read_advertisements, read_scores
from tasks.examples.formats.snli_ve import read_hypotheses, read_labels
from tasks.examples.formats.vcr import read_items, read_probabilities
from tasks.examples.formats.vqa import read_answers, read_questions
from tasks.records import Record


class Measurement(Record):
    """What a file of predictions measured."""

    predictions: str
    annotations: str
    metrics: TaskFigures
    dropped: dict[str, int] = Field(default={}, description="rows of the annotations that do not count, by reason")


def measure_vqa(predictions: str, annotations: str) -> Measurement:
    questions = read_questions(annotations)
    figures = vqa_figures(questions, read_answers(predictions, questions, annotations))
    return Measurement(predictions=predictions, annotations=annotations, metrics=figures)


def measure_nlvr2(predictions: str, annotations: str) -> Measurement:
    statements = read_statements(annotations)
    figures = nlvr2_figures(statements, read_truths(predictions, statements, annotations))
    return Measurement(predictions=predictions, annotations=annotations, metrics=figures)


def measure_snli_ve(predictions: str, annotations: str, fields: tuple[str, str]) -> Measurement:
    hypotheses = read_hypotheses(annotations)
    figures = snli_ve_figures(hypotheses.used, read_labels(predictions, hypotheses, annotations, fields))
    dropped = {reason: len(ids) for reason, ids in hypotheses.dropped.items() if ids}
    return Measurement(predictions=predictions, annotations=annotations, metrics=figures, dropped=dropped)


def measure_refcoco(
    predictions: str,
    annotations: str,
    instances: str | None,
    split: str | None,
    boxes: BoxForm | None,
    rule: IouRule,
    widths: Widths,
) -> Measurement:
    expressions = read_expressions(annotations, instances, split)
    figures = refcoco_figures(expressions, read_boxes(predictions, expressions, annotations, boxes), rule, widths)
    return Measurement(predictions=predictions, annotations=annotations, metrics=figures)


def measure_vcr(predictions: str, annotations: str) -> Measurement:
    items = read_items(annotations)
    figures = vcr_figures(items, *read_probabilities(predictions, items, annotations))
    return Measurement(predictions=predictions, annotations=annotations, metrics=figures)


def measure_relevance(
    predictions: str, annotations: str, columns: AdvertisementColumns, scored: ScoreColumns
) -> Measurement:
    advertisements = read_advertisements(annotations, columns)
    scores = read_scores(predictions, advertisements, annotations, scored)
    try:
        figures = relevance_figures(advertisements, scores)
    except ValueError as error:
        raise UserError(f"{annotations}: {error}") from error
    return Measurement(predictions=predictions, annotations=annotations, metrics=figures)
