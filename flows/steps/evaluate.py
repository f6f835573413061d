"""The steps of an evaluation, for a Prefect task or this process alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from feature_extraction.samples.tars import ShardError
from flows.params.evaluated_run import answers_examples, evaluation_spec, task_prediction
from flows.params.evaluation import EvaluateParams
from flows.results import EvaluationResult, RetrievalResult
from flows.views.progress import Bar, ProgressLog
from tasks.errors import UserError
from tasks.evaluation import evaluate as evaluation
from tasks.evaluation.history import read_history
from tasks.evaluation.predict import predict
from tasks.evaluation.record import record_evaluation
from tasks.evaluation.trend import TrendPoint, checkpoint_text, comparison_sentence, trend
from tasks.records import HistoryRow
from tasks.reports.measures import evaluation_section
from tasks.reports.report import Scored, write_evaluation_report
from tasks.reports.retrieval.sections import evaluation_sections
from tasks.storage.root import Root
from tasks.training.runs import checkpoint_extractor

log = logging.getLogger("flows.evaluate")


def run_evaluate(params: EvaluateParams, bar: Bar) -> RetrievalResult:
    """Score, or find finished scores; then make this evaluation's page, where that is possible."""
    root = Root(params.root_uri)
    spec = evaluation_spec(root, params)
    with bar(f"evaluate {params.subject}") as show:
        done = evaluation.evaluate(root, spec, ProgressLog(log, params.subject, "pairs", show=show).follow)

    def write_page() -> str:
        scored = Scored(done.row, checkpoint_extractor(root, spec.checkpoint))
        return write_evaluation_report(root, scored, evaluation_sections(root, scored, done.tables, done.positives))

    told = tell_evaluation(root, done.row, done.skipped, write_page)
    main, *also = done.tables
    return RetrievalResult(
        **dict(told), table_row=main.row, chance=main.chance, also=tuple(also), positives=done.positives
    )


def run_any_evaluate(params: EvaluateParams, bar: Bar) -> EvaluationResult:
    """Evaluate a run of any task."""
    if answers_examples(Root(params.root_uri), params):
        return run_task_evaluate(params, bar)
    return run_evaluate(params, bar)


def run_task_evaluate(params: EvaluateParams, bar: Bar) -> EvaluationResult:
    """Answer a task's examples, or find them answered; then measure, record, and make the page.

    Raises:
        UserError: the examples have no targets.
    """
    root = Root(params.root_uri)
    spec = task_prediction(root, params)
    with bar(f"evaluate {params.subject}") as show:
        done = predict(root, spec, ProgressLog(log, params.subject, "examples", show=show).follow)
    if done.metrics is None:
        raise UserError(
            f"the examples of {spec.dataset}/{spec.split} have no targets, so nothing is measured; the answers are in "
            f"{done.path}"
        )
    row = record_evaluation(
        root,
        spec.checkpoint,
        spec.run.task,
        done.metrics,
        setting=spec.run.setting,
        variant=params.variant,
        seed=spec.run.seed,
        dataset=spec.dataset,
        split=spec.split,
        data_fingerprint=spec.data_fingerprint,
    )

    def write_page() -> str:
        scored = Scored(row, checkpoint_extractor(root, spec.checkpoint))
        return write_evaluation_report(root, scored, [evaluation_section(row)])

    return tell_evaluation(root, row, done.skipped, write_page)


def tell_evaluation(root: Root, row: HistoryRow, skipped: bool, write_page: Callable[[], str]) -> EvaluationResult:
    """Log what an evaluation of any task measured and how that compares, and write its page where it can be made.

    Args:
        row: of the history, which has it already.
        skipped: whether it was done before.
        write_page: makes the page and returns its full name.
    """
    point = point_of(root, row)
    brief = ", ".join(f"{one.label} {one.text(point.measures.value(one))}" for one in point.task.brief)
    log.info(
        "%s, %s on %s/%s: %s%s",
        checkpoint_text(row),
        row.setting,
        row.dataset,
        row.split,
        "already done, " if skipped else "",
        brief,
    )
    comparison = comparison_sentence(point)
    log.info("%s", comparison)
    report_path, no_report = None, None
    try:
        report_path = write_page()
    except (UserError, ShardError) as error:
        # The numbers are in the history by now; what is left of features and download may be too little to show.
        no_report = str(error)
        log.warning("no page of this evaluation could be made: %s", error)
    return EvaluationResult(
        row=row, fall=point.fall, comparison=comparison, report_path=report_path, no_report=no_report, skipped=skipped
    )


def point_of(root: Root, row: HistoryRow) -> TrendPoint:
    """How this evaluation compares with the earlier ones."""
    return trend(read_history(root)).of(row)
