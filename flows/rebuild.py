"""The flow `rebuild`: all stages, from rows to retrieval table and report."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.download import download
from flows.extract import extract
from flows.operate.deployed import begin_run
from flows.params.changes import Changes, with_changes
from flows.params.checks import check_rebuild
from flows.params.experiment import RebuildParams
from flows.results import RebuildResult, RetrievalResult
from flows.steps.data_stages import DataStages
from flows.steps.rebuild import Outcomes, Steps, run_rebuild, write_rebuild_report
from flows.steps.world import rows_ready
from flows.training_tasks import training_tasks
from flows.views.artifacts import show_rebuild


@flow(name="rebuild", flow_run_name="rebuild {params.name} in {params.root_uri}")
def rebuild(params: RebuildParams, changes: Changes | None = None) -> RebuildResult:
    """Download, extract, pretrain, finetune, evaluate every setting, report. What is finished is not done again."""
    begin_run()
    params = with_changes(params, changes)
    # Prefect does not hand tags down to subflows.
    with rows_ready(params) as ready, tags(*flow_run.tags):
        check_rebuild(ready)  # Check before the download, which may take days.
        return run_rebuild(ready, Steps(DataStages(download, extract), training_tasks, report_task, show_rebuild))


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report_task(
    params: RebuildParams, evaluations: Sequence[RetrievalResult], outcomes: Outcomes, lost: Sequence[str]
) -> str:
    return write_rebuild_report(params, evaluations, outcomes, lost)
