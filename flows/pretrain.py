"""Feature shards to a pretrained checkpoint."""

from __future__ import annotations

import logging

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.changes import Changes, with_changes
from flows.deployed import begin_run
from flows.params import PretrainParams
from flows.progress import ProgressLog
from flows.progress_bar import progress_bar
from tasks import train
from tasks.launch import stopping_children
from tasks.records import CheckpointRef
from tasks.reports.matching import matching_warning
from tasks.storage import Root

log = logging.getLogger(__name__)


@task(name="pretrain", task_run_name="pretrain", cache_policy=NO_CACHE)
def pretrain_task(params: PretrainParams) -> CheckpointRef:
    root, spec = Root(params.root_uri), params.spec()
    run = train.pretraining_run(root, spec)
    with progress_bar(run) as show:
        checkpoint = train.pretrain(root, spec, ProgressLog(log, run, "steps", show=show).follow, params.nodes)
    log.info("%s: %s, %d steps", run, "already done" if checkpoint.skipped else "done", checkpoint.step)
    if (warning := matching_warning(root, run)) is not None:
        log.warning("%s", warning)
    return checkpoint


@flow(name="pretrain", flow_run_name="pretrain on {params.dataset}/{params.split} in {params.root_uri}")
def pretrain(params: PretrainParams, changes: Changes | None = None) -> CheckpointRef:
    """Train the encoder on masked words, masked object labels and matching."""
    begin_run()
    params = with_changes(params, changes)
    with stopping_children():
        return pretrain_task(params)
