"""What an evaluation is, whoever runs it: a Prefect task, or nothing but this process."""

from __future__ import annotations

import logging

from feature_extraction.samples.tars import ShardError
from flows.params.evaluated_run import evaluation_spec
from flows.params.evaluation import EvaluateParams
from flows.results import EvaluationResult
from flows.views.progress import Bar, ProgressLog
from tasks.errors import UserError
from tasks.evaluation import evaluate as evaluation
from tasks.evaluation.history import read_history
from tasks.evaluation.trend import TrendPoint, comparison_sentence, trend
from tasks.records import HistoryRow
from tasks.reports.report import write_evaluation_report
from tasks.storage.root import Root
from tasks.training.runs import checkpoint_extractor

log = logging.getLogger("flows.evaluate")


def run_evaluate(params: EvaluateParams, bar: Bar) -> EvaluationResult:
    """Score, or find the scores; and the page of this evaluation, where it can be made."""
    root = Root(params.root_uri)
    spec = evaluation_spec(root, params)
    with bar(f"evaluate {params.subject}") as show:
        done = evaluation.evaluate(root, spec, ProgressLog(log, params.subject, "pairs", show=show).follow)
    main, *also = done.tables
    log.info(
        "%s step %d, %s on %s/%s: %sR@1 image-to-text %.1f, text-to-image %.1f",
        spec.checkpoint.run,
        spec.checkpoint.step,
        spec.setting,
        spec.dataset,
        spec.split,
        "already done, " if done.skipped else "",
        100 * main.row.image_to_text[1],
        100 * main.row.text_to_image[1],
    )
    point = point_of(root, done.row)
    log.info("%s", comparison_sentence(point))
    report_path, no_report = None, None
    try:
        report_path = write_evaluation_report(
            root, done.row, done.tables, checkpoint_extractor(root, spec.checkpoint), done.positives
        )
    except (UserError, ShardError) as error:
        # The numbers stand in the history by now; what is left of features and download may be too little to show.
        no_report = str(error)
        log.warning("no page of this evaluation could be made: %s", error)
    return EvaluationResult(
        row=done.row,
        table_row=main.row,
        chance=main.chance,
        also=tuple(also),
        positives=done.positives,
        fall=point.fall,
        comparison=comparison_sentence(point),
        report_path=report_path,
        no_report=no_report,
        skipped=done.skipped,
    )


def point_of(root: Root, row: HistoryRow) -> TrendPoint:
    """How this evaluation compares with the earlier ones."""
    return trend(read_history(root)).of(row)
