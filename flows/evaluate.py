"""A checkpoint and a split to one row of the history; and, on a schedule, a look at whether its measures fell."""

from __future__ import annotations

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.evaluation import EvaluateParams
from flows.results import EvaluationResult
from flows.steps.evaluate import point_of, run_any_evaluate
from flows.views.artifacts import artifact_key, show_evaluation
from flows.views.markdown import code
from flows.views.progress_bar import progress_bar
from model.downstream.tasks import measured_task
from tasks.evaluation.trend import check_fall, comparison_table
from tasks.records import HistoryRow
from tasks.storage.root import Root
from tasks.workers.launch import stopping_children


@task(name="evaluate", task_run_name="evaluate {params.subject}", cache_policy=NO_CACHE)
def evaluate_task(params: EvaluateParams) -> EvaluationResult:
    return run_any_evaluate(params, progress_bar)


@flow(
    name="evaluate", flow_run_name="evaluate {params.subject} on {params.dataset}/{params.split} in {params.root_uri}"
)
def evaluate(params: EvaluateParams, changes: Changes | None = None) -> EvaluationResult:
    """Score every image with every caption, or answer a task's examples, and append the metrics to the history.

    With `max_drop` the flow run fails where the measures are worse than the best earlier evaluation by more than that,
    each time that it is asked for this checkpoint; the history and the table artifact tell both numbers.
    """
    begin_run()
    params = with_changes(params, changes)
    with stopping_children():
        result = evaluate_task(params)
    show_evaluation(params.root_uri, result)
    if params.max_drop is not None:
        point = point_of(Root(params.root_uri), result.row)
        create_table_artifact(
            key=comparison_key(result.row), table=comparison_table(point), description=code(str(point.series))
        )
        check_fall(point, params.max_drop)
    return result


def comparison_key(row: HistoryRow) -> str:
    """Of the table that compares it: what is measured, the setting and the data."""
    return artifact_key(measured_task(row.task).subject, row.name, row.dataset, row.split)
