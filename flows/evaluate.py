"""A checkpoint and a retrieval split to one row of the history; and, on a schedule, a look at whether recall fell."""

from __future__ import annotations

import logging

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from feature_extraction.samples import ShardError
from flows.artifacts import artifact_key, show_evaluation
from flows.changes import Changes, with_changes
from flows.deployed import begin_run
from flows.markdown import code
from flows.params import EvaluateParams
from flows.progress import ProgressLog
from flows.progress_bar import progress_bar
from flows.results import EvaluationResult
from tasks import evaluate as evaluation
from tasks.errors import UserError
from tasks.history import read_history
from tasks.launch import stopping_children
from tasks.records import HistoryRow
from tasks.report import write_evaluation_report
from tasks.runs import checkpoint_extractor
from tasks.storage import Root
from tasks.trend import Measure, check_fall, comparison_sentence, comparison_table, trend

log = logging.getLogger(__name__)


@task(name="evaluate", task_run_name="evaluate {params.subject}", cache_policy=NO_CACHE)
def evaluate_task(params: EvaluateParams) -> EvaluationResult:
    root = Root(params.root_uri)
    spec = params.spec(root)
    with progress_bar(f"evaluate {params.subject}") as show:
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
    measure = _measure(root, done.row)
    log.info("%s", comparison_sentence(measure))
    report_path, no_report = None, None
    try:
        report_path = write_evaluation_report(root, done.row, done.tables, checkpoint_extractor(root, spec.checkpoint))
    except (UserError, ShardError) as error:
        # The numbers stand in the history by now; what is left of features and download may be too little to show.
        no_report = str(error)
        log.warning("no page of this evaluation could be made: %s", error)
    return EvaluationResult(
        row=done.row,
        table_row=main.row,
        chance=main.chance,
        also=tuple(also),
        fall=measure.fall,
        comparison=comparison_sentence(measure),
        report_path=report_path,
        no_report=no_report,
        skipped=done.skipped,
    )


@flow(
    name="evaluate", flow_run_name="evaluate {params.subject} on {params.dataset}/{params.split} in {params.root_uri}"
)
def evaluate(params: EvaluateParams, changes: Changes | None = None) -> EvaluationResult:
    """Score every image with every caption, and append the metrics to the history.

    With `max_drop` the flow run fails where recall is further below the best earlier evaluation than that, each time
    that it is asked for this checkpoint; the history and the table artifact tell both numbers.
    """
    begin_run()
    params = with_changes(params, changes)
    with stopping_children():
        result = evaluate_task(params)
    show_evaluation(params.root_uri, result)
    if params.max_drop is not None:
        measure = _measure(Root(params.root_uri), result.row)
        create_table_artifact(
            key=recall_key(result.row), table=comparison_table(measure), description=code(str(measure.series))
        )
        check_fall(measure, params.max_drop)
    return result


def recall_key(row: HistoryRow) -> str:
    """`recall-zero-shot-retrieval-test`."""
    return artifact_key("recall", row.name, row.dataset, row.split)


def _measure(root: Root, row: HistoryRow) -> Measure:
    return trend(read_history(root)).of(row)
