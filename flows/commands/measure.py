"""The command `measure`: predictions of any system in their published file, scored by the task's official rules."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

import typer

from flows.commands.shared import Json, exit_codes
from model.downstream.refcoco.boxes import IouRule, Widths
from model.downstream.tasks import measured_task
from tasks.errors import UserError
from tasks.examples import measure
from tasks.examples.formats.refcoco import BoxForm
from tasks.examples.formats.relevance import AdvertisementColumns, ScoreColumns
from tasks.examples.measure import Measurement
from tasks.reports.measure_table import make_table, measures_row, table_text

Predictions = Annotated[str, typer.Option("--predictions", help="File or URI, packed or not; as leaderboards take it.")]
Annotations = Annotated[str, typer.Option("--annotations", help="File or URI as its authors publish it.")]


def add_commands(app: typer.Typer) -> None:
    """Add `measure` to a command line, with a command of its own for each task."""
    tasks = typer.Typer(
        help="Score a file of predictions, of this or any other system, by the rules of the task's official evaluator. "
        "Needs no model, no pictures and no root.",
        no_args_is_help=True,
    )
    tasks.command("vqa")(vqa)
    tasks.command("nlvr2")(nlvr2)
    tasks.command("snli-ve")(snli_ve)
    tasks.command("refcoco")(refcoco)
    tasks.command("vcr")(vcr)
    tasks.command("relevance")(relevance)
    app.add_typer(tasks, name="measure")


def vqa(predictions: Predictions, annotations: Annotations, json: Json = False) -> None:
    """VQA v2: soft accuracy, by answer type; --json has question types, too.

    Predictions are the leaderboard's JSON list with question_id and answer; annotations
    v2_mscoco_val2014_annotations.json.
    """
    with exit_codes():
        _print(measure.measure_vqa(predictions, annotations), json)


def nlvr2(predictions: Predictions, annotations: Annotations, json: Json = False) -> None:
    """NLVR2: accuracy and consistency.

    Predictions are lines identifier,True or identifier,False; annotations dev.json or test1.json.
    """
    with exit_codes():
        _print(measure.measure_nlvr2(predictions, annotations), json)


def snli_ve(
    predictions: Predictions,
    annotations: Annotations,
    id_field: Annotated[str, typer.Option("--id-field", help="Of the predictions: the pair's id.")] = "pairID",
    label_field: Annotated[str, typer.Option("--label-field", help="Of the predictions: the label's name.")] = "label",
    json: Json = False,
) -> None:
    """SNLI-VE: accuracy, and by label.

    Predictions are JSON lines, or a table with a header; annotations snli_ve_dev.jsonl or snli_ve_test.jsonl.
    """
    with exit_codes():
        _print(measure.measure_snli_ve(predictions, annotations, (id_field, label_field)), json)


def refcoco(
    predictions: Predictions,
    annotations: Annotations,
    instances: Annotated[
        str | None, typer.Option("--instances", help="instances.json, with refs(unc).p: it has the boxes.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="With refs(unc).p: val, testA, testB or test.")] = None,
    boxes: Annotated[
        BoxForm | None,
        typer.Option(
            "--boxes",
            help="Form of the predicted boxes: corner and size, or two corners, in pixels.",
            show_default="xywh in pred_box, xyxy in box",
        ),
    ] = None,
    iou: Annotated[
        IouRule,
        typer.Option("--iou", help="Right where IoU is above 0.5, as in UNITER, or at-least 0.5, as in VL-BERT."),
    ] = "above",
    widths: Annotated[
        Widths,
        typer.Option("--widths", help="Of boxes: plain, or plus-one with 1 pixel added to both sides, as in VL-BERT."),
    ] = "plain",
    json: Json = False,
) -> None:
    """RefCOCO, RefCOCO+ and RefCOCOg: accuracy over expressions.

    Predictions are a JSON list with sent_id and pred_box (corner and size), as UNITER writes it, or with ref_id and box
    (two corners), as VL-BERT does; annotations refs(unc).p with instances.json, or MDETR's finetune_refcoco_val.json.
    """
    with exit_codes():
        _print(measure.measure_refcoco(predictions, annotations, instances, split, boxes, iou, widths), json)


def vcr(predictions: Predictions, annotations: Annotations, json: Json = False) -> None:
    """VCR: answers (Q->A), rationales given the true answer (QA->R), and both (Q->AR).

    Predictions are the leaderboard's csv of 21 columns; annotations val.jsonl.
    """
    with exit_codes():
        _print(measure.measure_vcr(predictions, annotations), json)


def relevance(
    predictions: Predictions,
    annotations: Annotations,
    id_columns: Annotated[
        str, typer.Option("--id-columns", help="Of the annotations: those that name a pair together.")
    ] = "0,1",
    image_column: Annotated[str, typer.Option("--image-column", help="Of the annotations: the picture.")] = "0",
    label_column: Annotated[
        str, typer.Option("--label-column", help="Of the annotations: 1 where relevant, else 0.")
    ] = "8",
    score_id_columns: Annotated[
        str, typer.Option("--score-id-columns", help="Of the predictions: those that name a pair together.")
    ] = "0,1",
    score_column: Annotated[
        str, typer.Option("--score-column", help="Of the predictions: higher means more relevant.")
    ] = "2",
    by_row: Annotated[
        bool, typer.Option("--by-row", help="Both files have the pairs in one order; no column names them.")
    ] = False,
    json: Json = False,
) -> None:
    """Ad relevance: area under the ROC curve, ties counting half.

    Both files are tables with tabs or commas. Columns are numbers from 0, or names where the first line is a header;
    the defaults are those of CommercialAds, and pairs with a score in a third column.
    """
    with exit_codes():
        columns = AdvertisementColumns(None if by_row else _names(id_columns), image_column, label_column)
        scored = ScoreColumns(None if by_row else _names(score_id_columns), score_column)
        _print(measure.measure_relevance(predictions, annotations, columns, scored), json)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UserError(f"columns {text!r} cannot be read: give numbers or names with commas between them, such as 0,1")
    return names


def _print(result: Measurement, json: bool) -> None:
    print(result.model_dump_json() if json else measurement_text(result))


def measurement_text(result: Measurement) -> str:
    """The table of what was measured, and what did not count."""
    (measures,) = measured_task(result.metrics.task).measures(result.metrics.model_dump())
    lines = [table_text(make_table([measures_row(PurePath(result.predictions).name, measures, None)]))]
    lines += [
        f"{rows:,} rows of {result.annotations} do not count: {reason}" for reason, rows in result.dropped.items()
    ]
    return "\n".join(lines)
